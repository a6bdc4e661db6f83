"""A simulator of the token rules of Korea Investment & Securities' Open API (KIS), over HTTP."""
