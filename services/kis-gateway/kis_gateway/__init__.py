"""A gateway to Korea Investment & Securities' Open API (KIS) that keeps its access token.

Trading programs call ``/uapi/…`` here and never see the token or the app secret.

- ``config``: reads and checks the environment and the secrets file.
- ``tokens``: the token, its file and the record of the last attempt.
- ``kis``: the calls to KIS and the meaning of its refusals.
- ``keeper``: decides which token to use and when to ask for a new one.
- ``limiter``: keeps to KIS's limit of requests per second.
- ``app``: the HTTP side; ``gunicorn_conf`` runs it.
"""
