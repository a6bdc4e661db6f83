"""The nouns that the verbs in `deploy/` use.

Without pyinfra: `settings`, `registry`, `saved_image`, `release`, `reading`, `plan`, `rollout`,
`commands`, `display`. The thin layer that acts: `fleet`, `facts`, `targets` and `operations`.
"""
