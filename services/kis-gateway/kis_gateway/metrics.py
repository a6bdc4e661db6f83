"""The gateway's metrics for Prometheus. No label contains a credential or a token."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """One gateway's metrics, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.token_expiry = Gauge(
            "kis_token_expiry_timestamp_seconds",
            "When the token in use expires; 0 without one.",
            registry=self.registry,
        )
        self.issuances = Counter(
            "kis_token_issuances",
            "Attempts to get a token: issued, rejected (with KIS's error_code), or error.",
            ["outcome", "code"],
            registry=self.registry,
        )
        self.cached_tokens = Counter(
            "kis_cached_tokens_used",
            "Times that the token file's token was used instead of asking KIS.",
            registry=self.registry,
        )
        self.upstream_requests = Counter(
            "kis_upstream_requests",
            "Requests to KIS by HTTP status, and by KIS's msg_cd if it is not 200; status none: no "
            "answer.",
            ["status", "msg_cd"],
            registry=self.registry,
        )
        self.limiter_wait = Histogram(
            "kis_limiter_wait_seconds",
            "Time that requests waited for KIS's limit per second.",
            buckets=(0.001, 0.05, 0.25, 1, 2, 5),
            registry=self.registry,
        )
        self.limiter_refusals = Counter(
            "kis_limiter_refusals",
            "Requests answered 429 because their turn was too far away.",
            registry=self.registry,
        )
