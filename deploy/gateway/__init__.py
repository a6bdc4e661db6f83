"""The nouns that the verbs in `deploy/` use.

Without pyinfra: `settings`, `registry`, `saved_image`, `release`, `reading`, `plan`, `issuance`,
`rollout`, `commands`, `display`. The thin layer that acts: `fleet`, `facts`, `targets`,
`locked` and `operations`.
"""
