"""The nouns that the verbs in `deploy/` use.

Pure, without pyinfra: `settings`, `release`, `reading`, `plan`, `commands`.
The thin layer that acts: `facts` and `operations`.
"""
