"""A gateway put together: its log, limits, access list and router's settings around the backends that it is given."""

import functools

from app.registry.versions import Registry
from app.serving.access import AccessList
from app.serving.canary import resolve_canary
from app.serving.cascade import Backends
from app.serving.counters import Counters
from app.serving.gateway import Gateway
from app.serving.limits import Limits
from app.serving.log import RequestLog
from app.serving.release import resolve_release
from app.serving.settings import ServingSettings
from app.serving.steering import Steering
from app.serving.tracing import tracer_of


class Assembly:
    """A gateway over a workspace's registry, and what has to be ended with it."""

    def __init__(
        self,
        settings: ServingSettings,
        registry: Registry,
        backends: Backends,
        *,
        access: AccessList | None = None,
        with_canary: bool = True,
    ) -> None:
        """Put it together; ``with_canary``: some requests may be a canary's."""
        self._log = RequestLog(
            registry.workspace.requests_dir,
            ledger=registry.ledger,
            flush_s=settings.log_flush_s,
            max_queue=settings.log_max_queue,
            ledger_period_s=settings.ledger_period_s,
        )
        self._limits = Limits(
            Counters(registry.database),
            access or AccessList.of(registry),
            refresh_s=settings.limits_refresh_s,
            require_key=settings.require_key,
        )
        self._tracer = tracer_of(settings.tracing, registry.workspace)
        self.gateway = Gateway(
            settings=settings,
            backends=backends,
            resolve=functools.partial(resolve_release, registry),
            log=self._log,
            canary=functools.partial(resolve_canary, registry) if with_canary else lambda production: None,
            limits=self._limits,
            erased=functools.partial(registry.store.erased_mark, "index"),
            steering=Steering.of(settings, registry),
            tracer=self._tracer,
        )

    def close(self) -> None:
        """Write what the log still holds, give back what the limits reserved."""
        self._log.close()
        self._limits.meter.end()
        self._tracer.close()
