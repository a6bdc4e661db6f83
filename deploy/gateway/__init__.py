"""The nouns that the verbs in `deploy/` use.

Without pyinfra: `settings`, `release`, `reading`, `plan`, `rollout`, `commands`, `display`.
The thin layer that acts: `targets`, `facts` and `operations`.
"""
