"""A pack taken apart, to be changed and zipped again."""

import json
import zipfile

from app.governance.pack.verify import verify_pack


class Broken:
    """A pack's members, to be changed and zipped again."""

    def __init__(self, scene, folder):
        self.scene, self.path = scene, folder / "broken.zip"
        with zipfile.ZipFile(scene.pack) as archive:
            self.members = {name: archive.read(name) for name in archive.namelist()}

    def find(self, *parts):
        return next(name for name in sorted(self.members) if all(part in name for part in parts))

    def edit(self, name, change):
        self.members[name] = json.dumps(change(json.loads(self.members[name])), sort_keys=True).encode()

    def lines(self, name, change):
        rows = [json.loads(line) for line in self.members[name].splitlines()]
        self.members[name] = b"".join(json.dumps(row).encode() + b"\n" for row in change(rows))

    def faults(self, **options):
        with zipfile.ZipFile(self.path, "w") as archive:
            for name, data in self.members.items():
                archive.writestr(name, data)
        return verify_pack(self.path, **{"public_key": self.scene.key, **options})


def kinds(report):
    return {fault.kind for fault in report.faults}


def sentence(report, kind):
    return next(str(fault) for fault in report.faults if fault.kind == kind)
