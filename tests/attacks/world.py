"""A judged release and people with keys, for those who attack approvals and promotion."""

from dataclasses import dataclass, replace

from app.core.clock import rfc3339, utc_now
from app.governance.approvals import approve, draft, record, reject, withdraw
from app.governance.gate import judge
from app.governance.keys import new_key
from app.governance.policy import parse_policy, publish_policy
from app.governance.promotion import promote
from app.governance.release import build_release
from app.ledger.keys import sign_facts
from app.ledger.log import Statement
from app.ledger.verify import verify
from app.registry.versions import Registry
from tests.governance.conftest import POLICY, PRICES, World, ask_for_traffic

MEANING = "approved for production"


@dataclass
class Stage:
    """One workspace; every act by name."""

    world: World
    policy: object

    @property
    def registry(self) -> Registry:
        return self.world.registry

    def key(self, name="jane", role="approver", person="Jane Doe", **options):
        return new_key(self.registry, name, role=role, person=person, **options)

    def candidate(self, correct=96, policy=None):
        """A judged release: ``(release, verdict)``."""
        world, policy = self.world, policy or self.policy
        model = world.model()
        evaluation = world.evaluation([1] * correct + [0] * (100 - correct), model=model)
        verdict = judge(policy, world.evidence(model, candidate={"target": evaluation}), registry=self.registry)
        dataset = world.dataset()
        index = self.registry.publish("index", "handbook", inputs={"d": dataset.digest}, parents=[dataset.digest])
        router = self.registry.publish("router", "handbook", inputs={"m": model.digest}, parents=[model.digest])
        parts = {"small": model, "index": index, "dataset": dataset, "router": router}
        release = build_release("assistant", verdict=verdict, registry=self.registry, prices=PRICES, **parts)
        return ask_for_traffic(release, verdict, self.registry), verdict

    def approve(self, release, verdict, signer, name="Jane Doe", meaning=MEANING, **options):
        said = {"printed_name": name, "meaning": meaning, **options}
        return approve(verdict, release, signer=signer, registry=self.registry, **said)

    def reject(self, release, verdict, signer, name="Jane Doe", reason="it is rude"):
        return reject(verdict, release, signer=signer, printed_name=name, reason=reason, registry=self.registry)

    def withdraw(self, decision, signer, name="Jane Doe", reason="a mistake"):
        return withdraw(decision, signer=signer, printed_name=name, reason=reason, registry=self.registry)

    def promote(self, release, verdict, policy=None, **options):
        options = {"reason": "a test", **options}
        promote(release, verdict=verdict, registry=self.registry, policy=policy or self.policy, **options)

    def body(self, release, verdict, signer, *, age_s=0.0, **changes):
        """The body of an approval, signed ``age_s`` ago, with changes."""
        said = {"printed_name": "Jane Doe", "meaning": MEANING, "log_key": self.registry.ledger.log_key}
        body = draft(verdict.digest, release, signer=signer.public, **said)
        return body | {"time": rfc3339(utc_now() - _seconds(age_s))} | changes

    def send(self, body, signer):
        return record(sign_facts(body, signer), registry=self.registry)

    def smuggle(self, body, signer, *, kind="approval", name="assistant"):
        """Publish a decision past every check, as whoever has the server can."""
        signed = sign_facts(body, signer)
        facts = {"signed": signed, "printed_name": body["printed_name"], "meaning": body["meaning"]}
        parents = [body["verdict"], body["artifact"]]
        return self.registry.publish(
            kind, name, inputs={"signed": signed}, parents=parents, facts=facts, actor=signer.public.key_name
        )

    def force(self, release, parents, *, kind="promotion", signed=None, age_s=0.0, **changes):
        """Append a move leaf past every check; the alias follows."""
        from app.governance.promotion import _set_alias

        body = signed["body"] if signed else {}
        actor = signed["key"].partition("+")[0] if signed else "service"
        facts = {"actor": actor, "reason": body.get("reason")} | ({"signed": signed} if signed else {})
        if kind == "promotion":
            verdict, policy, *rest = [*parents, None, None][: max(len(parents), 2)]
            traffic = {"traffic": rest.pop(0)} if rest and rest[0] == self.traffic(release) else {}
            facts |= {"verdict": verdict, "policy": policy, **traffic, "approvals": rest}
        inputs = {"subject": release.digest, "previous": body.get("previous")}
        record_ = {"kind": kind, "name": "release/assistant", "inputs": inputs}
        payload = self.registry.store.publish(kind, None, {**record_, "parents": list(parents), "facts": facts})
        statement = Statement(kind, release.digest, "release/assistant", tuple(parents), payload, actor)
        statement = replace(statement, time=rfc3339(utc_now() - _seconds(age_s)), **changes)
        with self.registry.database.write() as connection:
            _set_alias(connection, release)
            self.registry.ledger.append([statement], connection=connection)

    def signed_move(self, release, parents, signer, *, kind="promotion", age_s=0.0, **changes):
        body = {
            "log": self.registry.ledger.log_key,
            "move": kind,
            "name": "release/assistant",
            "subject": release.digest,
            "previous": None,
        }
        body |= {"parents": list(parents), "reason": "because", "time": rfc3339(utc_now() - _seconds(age_s))}
        return sign_facts(body | changes, signer)

    def traffic(self, release):
        """Digest of the verdict of the gate before traffic on a release; None without one."""
        about = [(each.digest, each.facts.get("artifact")) for each in self.registry.versions("verdict")]
        return next((digest for digest, found in about if found and found["digest"] == release.digest), None)

    def parents(self, release, verdict, *approvals):
        """What a promotion names."""
        named = (verdict.digest, self.policy_version().digest, self.traffic(release))
        return (*named, *(approval.digest for approval in approvals))

    def policy_version(self):
        return publish_policy(self.policy, self.registry)

    def production(self):
        return self.registry.alias("release", "assistant", "production")

    def faults(self):
        """``kind: sentence`` of everything that verify names."""
        return [f"{fault.kind}: {fault}" for fault in verify(self.registry.workspace).faults]


def stage(registry, tmp_path, **approvals):
    """A stage; ``approvals`` are fields of the policy's check of that name."""
    checks = [each for each in POLICY["checks"] if each["kind"] != "approvals"]
    policy = parse_policy({**POLICY, "checks": [*checks, {"kind": "approvals", **approvals}]})
    return Stage(World(registry, tmp_path), policy)


def _seconds(number):
    from datetime import timedelta

    return timedelta(seconds=number)
