"""A gateway to Korea Investment & Securities' Open API (KIS) that keeps its access token.

Trading programs call ``/uapi/…`` here and never see the token or the app secret.

- ``config``: the environment and the secrets file, checked.
- ``tokens``: the token, its file, and the memory of the last attempt.
- ``kis``: the calls to KIS, and what its refusals mean.
- ``keeper``: when to use which token, and when to ask for a new one.
- ``limiter``: KIS's limit of requests per second.
- ``app``: the HTTP side; ``gunicorn_conf`` runs it.
"""
