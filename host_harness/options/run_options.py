# SPDX-License-Identifier: Apache-2.0
"""The options of a run: one table for the command line's variables and pytest's options."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dma_rehearsal.device.exerciser import profile
from dma_rehearsal.device.exerciser.profile import Profile, ProfileError
from dma_rehearsal.host_harness import faults
from dma_rehearsal.host_harness.faults import Fault
from dma_rehearsal.host_harness.options import outputs
from dma_rehearsal.host_harness.options.outputs import Output
from dma_rehearsal.host_harness.process import advice, deadlines
from dma_rehearsal.host_harness.process.errors import UsageError

VMS_MAX = 16
KIND, HOSTILE = "kind", "hostile"
AUTO, BOOTED, NO = "auto", "booted", "no"  # the saved machine states that a guest starts from
_MODULE = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,126}[a-z0-9+]")  # Debian Policy, 5.6.1
_NAMES_EXAMPLES = {"kernel_modules": "xfs,vfat", "packages": "fio,e2fsprogs"}
_YES, _NO = ("1", "yes", "true", "on"), ("", "0", "no", "false", "off")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``VARIABLE`` for make and the environment, `flag` for pytest."""

    name: str
    variable: str
    metavar: str
    help: str

    @property
    def flag(self) -> str:
        """Its name on pytest's command line."""
        return f"--vm-{self.name.replace('_', '-')}"

    @property
    def is_flag(self) -> bool:
        """Whether it is given without a value on pytest's command line."""
        return self.metavar == "1"


OPTIONS = (
    Option("accel", "ACCEL", "kvm|tcg", "insist on an accelerator (default: probe KVM, else tcg)"),
    Option(
        "fault",
        "FAULT",
        "NAME",
        f"break one promise on purpose ({advice.command('faults')} lists them)",
    ),
    Option(
        "order",
        "ORDER",
        "collected|shuffled",
        "the order of the guest's tests (default: as collected); SEED draws the shuffled one",
    ),
    Option("seed", "SEED", "NUMBER", "seed of the data patterns (default: random, printed)"),
    Option(
        "endpoint",
        "ENDPOINT",
        "MODULE:CLASS[,...]",
        "serve this endpoint in place of the exerciser, or several, separated by ','; a module may "
        "be in the current folder",
    ),
    Option(
        "module",
        "MODULE",
        "PATH[:PATH]",
        "kernel modules under test: a folder with a Kbuild, a C file, or a built NAME.ko; several "
        "are separated by ':'",
    ),
    Option(
        "driver",
        "DRIVER",
        "NAME",
        "a driver of the guest's kernel under test, built in or a module",
    ),
    Option(
        "kernel_modules",
        "KERNEL_MODULES",
        "NAME[,NAME]",
        "modules of the guest's kernel that are loaded before the tests, with what they need",
    ),
    Option(
        "packages",
        "PACKAGES",
        "NAME[,NAME]",
        "Debian packages whose programs the guest has, such as fio,e2fsprogs",
    ),
    Option(
        "rehearse",
        "REHEARSE",
        "1",
        "run each test of a driver under every condition (make rehearse)",
    ),
    Option(
        "iommu",
        "IOMMU",
        "intel",
        "put the exerciser behind QEMU's Intel IOMMU, and run the tests that are marked iommu",
    ),
    Option(
        "hotplug",
        "HOTPLUG",
        "1",
        "plug the endpoints into slots, from which tests unplug them (docs/hotplug.md)",
    ),
    Option(
        "kernel",
        "KERNEL",
        "SUITE|PATH",
        "the Debian suite whose kernel the guest boots (default: bookworm), or the tree of a "
        "kernel that you have built (docs/kernels.md)",
    ),
    Option(
        "boot",
        "BOOT",
        "pvh|bzimage",
        "how the guest's kernel is entered (default: pvh, which is faster; bzimage can have five "
        "levels of page tables)",
    ),
    Option(
        "profile",
        "PROFILE",
        "NAME|PATH",
        f"a device with limits: {', '.join(profile.shipped())}, or a TOML file (docs/profiles.md); "
        "with ENDPOINT, its limits on that device's DMA",
    ),
    Option("coherent", "COHERENT", "yes|no", "whether its DMA is snooped, whatever PROFILE says"),
    Option(
        "place",
        "PLACE",
        "kind|hostile",
        "where the allocator puts buffers: hostile makes drivers with mistakes fail (default: "
        "hostile for your own tests, kind for the suite)",
    ),
    Option("append", "APPEND", "WORDS", "more words for the guest kernel's command line"),
    Option(
        "state",
        "STATE",
        "auto|booted|no",
        "saved machine states that the guest may start from, else it boots (default: auto, any "
        "that fits; booted: only one without collected tests; no: none, and none is saved)",
    ),
    Option(
        "deadline",
        "DEADLINE",
        "PHASE=S,...",
        f"seconds that a phase may take, 0 = no limit; phases: {', '.join(deadlines.DEFAULTS_S)}",
    ),
    Option(
        "vms",
        "VMS",
        "N",
        "VMs that share the tests, side by side (default: 2 for the whole suite where there are "
        "two CPUs and memory for them, else 1)",
    ),
    Option(
        "output",
        "OUTPUT",
        "FORMAT[=PATH][,...]",
        f"write the result for other programs, too: {', '.join(outputs.FORMATS)} (docs/outputs.md)",
    ),
    Option("keep", "KEEP", "1", "leave the VM running after the tests, to enter it with a shell"),
    Option("gdb", "GDB", "1", "start QEMU's gdb stub, print the command for gdb, no deadlines"),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The checked options of a run. ``given`` holds the texts that the user gave, by name."""

    accel: str | None = None
    fault: Fault | None = None
    seed: int = 0
    order: str = "collected"
    endpoint: str | None = None
    modules: tuple[str, ...] = ()
    driver: str | None = None
    kernel_modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    rehearse: bool = False
    iommu: bool = False
    hotplug: bool = False
    kernel: str = "bookworm"
    boot: str = "pvh"
    profile: Profile = profile.PLAIN
    append: tuple[str, ...] = ()
    state: str = AUTO
    deadlines: Mapping[str, float] = field(default_factory=lambda: dict(deadlines.DEFAULTS_S))
    place: str | None = None
    vms: int | None = None
    outputs: tuple[Output, ...] = ()
    keep: bool = False
    gdb: bool = False
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The classes that ENDPOINT names; none without it."""
        return tuple(self.endpoint.split(",")) if self.endpoint else ()

    @property
    def has_profile(self) -> bool:
        """Whether the profile describes the device: the class of ENDPOINT describes its own."""
        return not self.endpoint or self.profile is not profile.PLAIN

    @property
    def has_peer(self) -> bool:
        """Whether a second exerciser is plugged in, which the first reaches by DMA.

        Behind an IOMMU it could not.
        """
        return not (self.iommu or self.endpoint)

    @property
    def several_vms(self) -> bool:
        """Whether more than one VM was asked for; by itself only a run of the suite has more."""
        return self.vms is not None and self.vms > 1


def overlooked(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that nothing reads, each with the option that was meant.

    They differ from an option by an S too many or too few: FAULTS for FAULT.
    """
    known = {option.variable for option in OPTIONS}
    meant = {f"{name}S": name for name in known} | {name.removesuffix("S"): name for name in known}
    return {
        name: meant[name]
        for name in sorted(environment)
        if name in meant and name not in known and environment[name]
    }


def parse(given: Mapping[str, str]) -> Options:
    """Check the options, by name; an empty text means not given. UsageError says what is wrong."""
    given = {name: text for name, text in given.items() if text}
    known = {option.name for option in OPTIONS}
    if unknown := sorted(set(given) - known):
        raise UsageError(f"unknown option {unknown[0]!r}", f"the options are: {', '.join(known)}")
    fault = faults.find(given["fault"]) if "fault" in given else None
    if fault:
        given = {**fault.options, **given}
    gdb = _flag("gdb", given)
    limits = deadlines.none() if gdb else dict(deadlines.DEFAULTS_S)
    if fault:
        limits |= fault.deadlines
    limits = deadlines.parse(given.get("deadline", ""), limits)
    accel = given.get("accel")
    if accel not in (None, "kvm", "tcg"):
        raise UsageError(f"ACCEL={accel} is not an accelerator", "use ACCEL=kvm or ACCEL=tcg")
    order = given.get("order", "collected")
    if order not in ("collected", "shuffled"):
        raise UsageError(f"ORDER={order} is not an order", "use ORDER=shuffled, or leave it out")
    boot = given.get("boot", "pvh")
    if boot not in ("pvh", "bzimage"):
        raise UsageError(f"BOOT={boot} is not a way to boot", "use BOOT=pvh or BOOT=bzimage")
    vms = _vms(given.get("vms"))
    if vms and vms > 1 and (gdb or _flag("keep", given)):
        raise UsageError(f"KEEP and GDB are for one VM, but VMS={vms}", "leave VMS out")
    return Options(
        accel=accel,
        fault=fault,
        seed=_seed(given.get("seed")),
        order=order,
        endpoint=given.get("endpoint"),
        modules=_modules(given.get("module")),
        driver=_driver(given.get("driver")),
        kernel_modules=_names("kernel_modules", given, _MODULE, "a kernel module"),
        packages=_names("packages", given, _PACKAGE, "a Debian package"),
        rehearse=_rehearse(given),
        iommu=_iommu(given.get("iommu")),
        hotplug=_hotplug(given),
        kernel=given.get("kernel", "bookworm"),
        boot=boot,
        profile=_profile_of_endpoint(given) if "endpoint" in given else _profile(given),
        append=tuple(given.get("append", "").split()),
        state=_state(given.get("state")),
        deadlines=limits,
        place=_place(given.get("place")),
        vms=vms,
        outputs=outputs.parse(given.get("output", "")),
        keep=_flag("keep", given),
        gdb=gdb,
        given=given,
    )


def _profile(given: Mapping[str, str]) -> Profile:
    try:
        found = profile.find(given["profile"]) if "profile" in given else profile.PLAIN
    except ProfileError as error:
        raise UsageError(f"PROFILE={given['profile']}: {error}", "see docs/profiles.md") from error
    return replace(found, coherent=_flag("coherent", given)) if "coherent" in given else found


def _profile_of_endpoint(given: Mapping[str, str]) -> Profile:
    """Return a profile whose limits a device of the user's own can be held to."""
    if "coherent" in given:
        raise UsageError(
            "COHERENT describes the exerciser, and ENDPOINT takes its place",
            "leave COHERENT out: the class says it by its property coherent",
        )
    found = _profile(given)
    named = f"PROFILE={given.get('profile')}"
    if found is not profile.PLAIN and "," in given["endpoint"]:
        raise UsageError(
            f"{named} describes one device, and ENDPOINT names several",
            "leave PROFILE out, or name one device",
        )
    if not found.coherent:
        raise UsageError(
            f"{named} is not coherent, and only the class of ENDPOINT can say that of itself",
            "take coherent out of a copy of the file, and return False from the class's property "
            "coherent",
        )
    if found.sloppy:
        raise UsageError(
            f"{named} is sloppy, and only the exerciser can be so: it alone knows which address "
            "lines a DMA engine lacks",
            "take sloppy out of a copy of the file, and cut the addresses in the class",
        )
    return found


def _flag(name: str, given: Mapping[str, str]) -> bool:
    text = given.get(name, "").lower()
    if text not in (*_YES, *_NO):
        raise UsageError(f"{name.upper()}={text} is neither yes nor no", f"use {name.upper()}=1")
    return text in _YES


def _modules(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    words = text.split(":")
    if "" in words:
        raise UsageError(
            f"MODULE={text} has a ':' without a path on both sides", "separate paths by one ':'"
        )
    return tuple(words)


def _rehearse(given: Mapping[str, str]) -> bool:
    rehearse = _flag("rehearse", given)
    if rehearse and not ("module" in given or "driver" in given):
        raise UsageError(
            "REHEARSE=1 rehearses a kernel driver, and none is named",
            "give MODULE=path or DRIVER=name",
        )
    return rehearse


def _hotplug(given: Mapping[str, str]) -> bool:
    hotplug = _flag("hotplug", given)
    if hotplug and "endpoint" not in given:
        raise UsageError(
            "HOTPLUG=1 plugs an endpoint into a slot, and none is named; the exerciser stays, "
            "because QEMU cannot unplug a device with MSI-X",
            "give ENDPOINT=module:Class, with messages (MSI) in place of vectors (docs/hotplug.md)",
        )
    return hotplug


def _driver(text: str | None) -> str | None:
    if text is not None and not _MODULE.fullmatch(text):
        raise UsageError(
            f"DRIVER={text} is not a name that a driver can have",
            "give its name as in /sys/module; a driver of your own is given as MODULE=path",
        )
    return text


def _names(
    name: str, given: Mapping[str, str], pattern: re.Pattern[str], kind: str
) -> tuple[str, ...]:
    """Return the names of a list with commas, each once."""
    text = given.get(name)
    if text is None:
        return ()
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if not pattern.fullmatch(word):
            raise UsageError(
                f"{name.upper()}={text}: {word!r} is not a name that {kind} can have",
                f"separate names by ',', as in {name.upper()}={_NAMES_EXAMPLES[name]}",
            )
    return tuple(dict.fromkeys(words))


def _iommu(text: str | None) -> bool:
    if text not in (None, "intel"):
        raise UsageError(f"IOMMU={text} is not an IOMMU that a VM can have", "use IOMMU=intel")
    return text is not None


def _place(text: str | None) -> str | None:
    if text not in (None, KIND, HOSTILE):
        raise UsageError(
            f"PLACE={text} is not a way to place buffers", "use PLACE=hostile or PLACE=kind"
        )
    return text


def _state(text: str | None) -> str:
    if text not in (None, AUTO, BOOTED, NO):
        raise UsageError(
            f"STATE={text} is not a kind of saved state",
            "use STATE=booted or STATE=no, or leave it out",
        )
    return text or AUTO


def _vms(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]?", text) or int(text) > VMS_MAX:
        raise UsageError(
            f"VMS={text} is not a number from 1 to {VMS_MAX}", "each takes 1 GiB and a CPU"
        )
    return int(text)


def _seed(text: str | None) -> int:
    if text is None:
        return secrets.randbelow(1 << 32)
    try:
        seed = int(text, 0)
    except ValueError:
        seed = -1
    if not 0 <= seed < 1 << 64:
        raise UsageError(
            f"SEED={text} is not a number from 0 to 2**64 - 1", "give a decimal or a 0x number"
        )
    return seed
