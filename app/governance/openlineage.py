"""OpenLineage run events of a job: START, a run below it for every version that it published, COMPLETE, FAIL, ABORT.

Events go through openlineage-python's client: to ``WORKSPACE/openlineage.jsonl``, or wherever its own standard
configuration says (``openlineage.yml``, ``OPENLINEAGE_URL``, ``OPENLINEAGE__TRANSPORT__...``); ``OPENLINEAGE_DISABLED``
switches them off. Source: https://openlineage.io/docs/spec/object-model and .../docs/client/python.

Guarantees: a dataset carries our digest as its version; a version that the job found made already is told as its output
too; a transport that fails is warned about once, and neither stops the job nor is asked again.
Not guaranteed: an event from a process that was killed. Evidence is the ledger; these events are for other people's
catalogues, and nothing in Signalbox reads them.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from app.core.clock import timestamp
from app.core.workspace import Workspace
from app.registry.versions import Registry, Version, VersionNotFound

if TYPE_CHECKING:
    from openlineage.client import OpenLineageClient
    from openlineage.client.event_v2 import Dataset, Job, Run

logger = logging.getLogger(__name__)

EVENTS_FILE = "openlineage.jsonl"
PRODUCER = "urn:signalbox"
NAMESPACE_VARIABLE, PARENT_VARIABLE = "OPENLINEAGE_NAMESPACE", "OPENLINEAGE_PARENT_ID"
"""The job's namespace; and ``namespace/job/run id`` of the run that started it, as OpenLineage's own tools write it."""
ENGINE = "ray"
TRANSPORT_ERRORS = (OSError, RuntimeError, ValueError, TypeError, LookupError, ImportError)
"""What openlineage-python's file, HTTP and console transports and their configuration raise."""
ROW_COUNTS = ("num_rows", "num_chunks", "num_documents")


@contextmanager
def recorded(registry: Registry, *, job: str, source: Path | None = None) -> Iterator[None]:
    """Emit the events of one job: what it reads and publishes through ``registry`` within the block.

    Args:
        job: its name, such as ``jobs.ingest``.
        source: its source file, for the source code facet.
    """
    run = _JobRun(registry, job, source)
    run.begin()
    registry.observer = run.saw
    try:
        yield
    except BaseException as error:  # passed on as it is; a run that ended is told, however it ended
        run.end("FAIL" if isinstance(error, Exception) else "ABORT", error)
        raise
    else:
        run.end("COMPLETE")
    finally:
        registry.observer = None


def make_client(workspace: Workspace) -> "OpenLineageClient":
    """A client as the standard configuration says, else one that appends to the workspace's file."""
    from openlineage.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport

    path = str(workspace.root / EVENTS_FILE)
    client = OpenLineageClient(transport=FileTransport(FileConfig(log_file_path=path, append=True)))
    configured = bool(client.config.transport) or "OPENLINEAGE_URL" in os.environ
    return OpenLineageClient() if configured else client


Parent: TypeAlias = tuple[str, str, str]
"""Namespace, job and run id of the run that another one is part of."""


@dataclass(frozen=True)
class _Step:
    """A stage within a job, as a run of its own."""

    name: str
    run_id: str
    parent: Parent


@dataclass
class _JobRun:
    """The run of one job, and what it has read and published so far."""

    registry: Registry
    name: str
    source: Path | None
    run_id: str = ""
    read: dict[str, Version] = field(default_factory=dict)
    published: dict[str, Version] = field(default_factory=dict)
    client: "OpenLineageClient | None" = None
    step_began_at: str = ""

    def begin(self) -> None:
        from openlineage.client.uuid import generate_new_uuid

        self.run_id = str(generate_new_uuid())
        try:
            self.client = make_client(self.registry.workspace)
        except TRANSPORT_ERRORS as error:
            self._give_up(error)
        self._emit("START", at=timestamp())

    def saw(self, event: str, seen: Version) -> None:
        """Take note of a version; one that was published becomes a run of its own below this one."""
        if event == "read" or seen.digest in self.published:
            self.read.setdefault(seen.digest, seen)
            return
        self.published[seen.digest] = seen
        self._emit_step(seen)

    def end(self, state: str, error: BaseException | None = None) -> None:
        own = [each for digest, each in self.read.items() if digest not in self.published]
        self._emit(state, inputs=own, outputs=list(self.published.values()), error=error)

    def _emit_step(self, made: Version) -> None:
        """START and COMPLETE of the stage that made a version; it began where the one before ended."""
        from openlineage.client.uuid import generate_new_uuid

        ended_at = timestamp()
        step = _Step(f"{self.name}.{made.kind}", str(generate_new_uuid()), (namespace(), self.name, self.run_id))
        inputs = [each for digest in made.parents if (each := self._find(digest))]
        self._emit("START", at=self.step_began_at, inputs=inputs, step=step)
        self._emit("COMPLETE", at=ended_at, inputs=inputs, outputs=[made], step=step)
        self.step_began_at = ended_at

    def _emit(
        self,
        state: str,
        *,
        at: str = "",
        inputs: Sequence[Version] = (),
        outputs: Sequence[Version] = (),
        error: BaseException | None = None,
        step: "_Step | None" = None,
    ) -> None:
        from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState

        if self.client is None:
            return
        at = at or timestamp()
        self.step_began_at = self.step_began_at or at
        event = RunEvent(
            eventTime=at,
            eventType=RunState[state],
            run=_run(step.run_id if step else self.run_id, step.parent if step else _outer_parent(), error),
            job=_job(step.name, None) if step else _job(self.name, self.source),
            inputs=[self._dataset(InputDataset, each) for each in inputs],
            outputs=[self._dataset(OutputDataset, each, outputFacets=_statistics(each)) for each in outputs],
            producer=f"{PRODUCER}:{_version('signalbox')}",
        )
        self._send(event)

    def _send(self, event: Any) -> None:
        assert self.client is not None
        try:
            self.client.emit(event)
        except TRANSPORT_ERRORS as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.client = None
        logger.warning("OpenLineage events of this job are not sent on, the job goes on without them: %s", error)

    def _find(self, digest: str) -> Version | None:
        """A parent, which this job may have been handed by an earlier stage without reading it again."""
        if known := self.read.get(digest) or self.published.get(digest):
            return known
        leaf = next(self.registry.ledger.leaves(subject=digest), None)
        try:
            return self.registry.get(leaf.statement.kind, digest) if leaf else None
        except VersionNotFound:
            return None

    def _dataset(self, of: type["Dataset"], each: Version, **facets: Any) -> Any:
        from openlineage.client.facet_v2 import dataset_version_dataset

        versioned: dict[str, Any] = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=each.digest)
        }
        return of(namespace=self.registry.store.uri, name=f"{each.kind}/{each.name}", facets=versioned, **facets)


def namespace() -> str:
    """The namespace of our jobs."""
    return os.environ.get(NAMESPACE_VARIABLE) or "signalbox"


def _run(run_id: str, parent: Parent | None, error: BaseException | None) -> "Run":
    from openlineage.client.event_v2 import Run
    from openlineage.client.facet_v2 import error_message_run, parent_run, processing_engine_run

    engine = processing_engine_run.ProcessingEngineRunFacet(
        version=_version(ENGINE), name="Ray", openlineageAdapterVersion=_version("signalbox")
    )
    facets: dict[str, Any] = {"processing_engine": engine}
    if parent:
        outer, name, parent_id = parent
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent_id), job=parent_run.Job(namespace=outer, name=name)
        )
    if error:
        said = str(error) or type(error).__name__
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message=said, programmingLanguage="python")
    return Run(runId=run_id, facets=facets)


def _job(name: str, source: Path | None) -> "Job":
    """A job with its source code, or a step of one, which has none of its own."""
    from openlineage.client.event_v2 import Job
    from openlineage.client.facet_v2 import job_type_job, source_code_job

    job_type = job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="SIGNALBOX", jobType="JOB" if source else "TASK"
    )
    facets: dict[str, Any] = {"jobType": job_type}
    if source:
        code = source.read_text(encoding="utf-8")
        facets["sourceCode"] = source_code_job.SourceCodeJobFacet(language="python", sourceCode=code)
    return Job(namespace=namespace(), name=name, facets=facets)


def _statistics(made: Version) -> dict[str, Any]:
    """How many rows a version has, where its facts say so."""
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    count = next((made.facts[name] for name in ROW_COUNTS if name in made.facts), None)
    size = sum(entry["bytes"] for entry in made.manifest["files"].values())
    facet = statistics.OutputStatisticsOutputDatasetFacet(rowCount=count, size=size)
    return {"outputStatistics": facet}


def _outer_parent() -> Parent | None:
    """The run that started this job, where the environment names one as ``namespace/job/run id``."""
    parts = os.environ.get(PARENT_VARIABLE, "").rsplit("/", 2)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and all(parts) else None


def _version(package: str) -> str:
    try:
        return quote(version(package))
    except PackageNotFoundError:
        return "unknown"
