"""From LLVM IR text to a callable address: compile, assemble, load.

    compile_object(text, target) -> bytes          relocatable object code; what the disk cache keeps
    Library.load(object_bytes, imports)            the same, linked into this process (0.1 ms)
    Library.function(symbol)(pointer)              a call

LLVM objects are not safe to share between threads, so one lock serialises everything here but the generation of code
(`ObjectPool`). A fork waits for the lock and for that, so that a child never inherits LLVM in the middle of something.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import mmap
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from dlc.base import forks
from dlc.base.errors import OutOfMemory
from dlc.base.workers import Workers, WorkerTask
from dlc.codegen.target.cpu import CpuTarget

ROOM_BYTES = 64 << 20  # what a module may take to compile or load


class IRError(RuntimeError):
    """LLVM refused the IR text: `line` is the 1-based line number (0 where LLVM does not tell), `text` that line."""

    def __init__(self, message: str, line: int = 0, text: str = ""):
        super().__init__(message)
        self.line = line
        self.text = text


_LINK_HINT = ": the object does not define it, is damaged, or uses a symbol that is neither imported nor in the process"


class LinkError(RuntimeError):
    """Object code that cannot be loaded here: damaged, or with a symbol that nobody provides."""


def compile_object(llvm_text: str, target: CpuTarget, *, opt_level: int = 3, passes: str = "fast") -> bytes:
    """Relocatable object code of a module given as LLVM IR text.

    `passes` names an entry of PIPELINES; `opt_level` (0-3) is the instruction selector's. Raises IRError.
    """
    with _lock, _emission(passes):
        machine = _machine(target, opt_level)
        module = _optimised(llvm_text, target, machine, passes)
        try:
            return machine.emit_object(module)
        finally:
            module.close()


class ObjectPool:
    """Compiles modules on other threads while this one goes on emitting text. Results come in order of `submit`.

    LLVM is safe with a context and a target machine for each thread; llvmlite's lock around every call is therefore
    left out for the one call that takes the time.
    """

    def __init__(self, target: CpuTarget, workers: int, *, opt_level: int = 3, passes: str = "fast"):
        self._arguments = target, opt_level, passes
        self._workers = Workers(max(1, workers), "dlc-llvm")
        self._jobs: list[WorkerTask[bytes]] = []

    def submit(self, llvm_text: str) -> None:
        self._jobs.append(self._workers.submit(_compile_alone, llvm_text, *self._arguments))

    def results(self) -> list[bytes]:
        """The objects, when all are done. Raises IRError."""
        try:
            return [job.result() for job in self._jobs]
        finally:
            self._workers.close()


def _compile_alone(llvm_text: str, target: CpuTarget, opt_level: int, passes: str) -> bytes:
    """`compile_object` with a target machine of its own, holding the lock only while it prepares."""
    with _lock:
        machine = _new_machine(target, opt_level)
        module = _optimised(llvm_text, target, machine, passes)
    try:
        with _emission(passes):
            return _emit_unlocked(machine, module)
    finally:
        with _lock:
            module.close()
            machine.close()


@contextlib.contextmanager
def _emission(passes: str) -> Iterator[None]:
    """Code generation. Forks wait for its end, also where it is done without the lock.

    Addresses in loops of IR that is as it should be (pipeline "none") stay as they are written. LLVM would look for
    better ones (loop strength reduction), which takes a third of its time and finds none. That is an option of the
    process, not of a module, so it is set only while such a module is being compiled.
    """
    written = passes == "none"
    with _lock:
        _own.emissions += 1
        if written and True not in _emissions:
            llvm.set_option("dlc", "-disable-lsr")
        _emissions.append(written)
    try:
        yield
    finally:
        with _lock:
            _own.emissions -= 1
            _emissions.remove(written)
            if written and True not in _emissions:
                llvm.set_option("dlc", "-disable-lsr=false")
            _ended.notify_all()


def _wait_for_emissions() -> None:
    """Wait, with the lock, until no other thread generates code: a child must not inherit LLVM in the middle of it.

    llvmlite's own lock is held over the fork, too: whoever lets go of one of its objects takes it.
    """
    while len(_emissions) > _own.emissions:
        _ended.wait()


def _emit_unlocked(machine: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
    emit = ffi.lib.LLVMPY_TargetMachineEmitToMemory
    emit = getattr(emit, "_cfn", emit)
    error = ctypes.c_char_p()
    memory = emit(machine, module, 1, ctypes.byref(error))
    if not memory:
        raise IRError(f"LLVM could not generate code: {(error.value or b'').decode(errors='replace')}")
    try:
        start, size = ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory)
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


def assembly(llvm_text: str, target: CpuTarget, *, opt_level: int = 3, passes: str = "fast") -> str:
    """The same code as assembly text, to be read."""
    with _lock, _emission(passes):
        machine = _machine(target, opt_level)
        module = _optimised(llvm_text, target, machine, passes)
        try:
            return machine.emit_assembly(module)
        finally:
            module.close()


def optimised_ir(llvm_text: str, target: CpuTarget, *, passes: str = "fast") -> str:
    """The module's LLVM IR after the pass pipeline, to be read."""
    with _lock:
        module = _optimised(llvm_text, target, _machine(target, 3), passes)
        try:
            return str(module)
        finally:
            module.close()


def object_key(llvm_text: str, target: CpuTarget, *, opt_level: int = 3, passes: str = "fast") -> str:
    """What `compile_object` with these arguments depends on, as a key for the disk cache (LLVM's version included)."""
    digest = hashlib.sha256(llvm_text.encode()).hexdigest()
    version = ".".join(map(str, llvm.llvm_version_info))
    return f"object-llvm{version}-{target.key()}-O{opt_level}-{passes}-{digest}"


class Library:
    """Object code loaded into this process. Its addresses are valid as long as the Library is referenced."""

    def __init__(self, tracker: llvm.orcjit.ResourceTracker):
        self._trackers = [tracker]
        self._addresses: dict[str, int] = {}

    @classmethod
    def load(
        cls, objects: bytes | Sequence[bytes], imports: Mapping[str, int] | None = None, exports: Iterable[str] = ()
    ) -> Library:
        """Load object code, one piece or several that call each other. Undefined symbols are `imports` (name ->
        address) or the process's own (libc, libm).

        Every library is a name space of its own: equal symbol names in two objects do not clash. Symbols listed in
        `exports` are linked at once, others when first asked for. Raises LinkError.
        """
        _check_room()
        builder = llvm.JITLibraryBuilder()
        for data in (objects,) if isinstance(objects, bytes) else objects:
            builder.add_object_img(data)
        builder.add_current_process()
        for name, address in (imports or {}).items():
            builder.import_symbol(name, address)
        exports = tuple(exports)
        for name in exports:
            builder.export_symbol(name)
        with _lock:
            _dispose_dead()
            try:
                tracker = builder.link(_linker(), f"dlc{next(_serial)}")
            except RuntimeError as error:
                raise LinkError(f"cannot load object code ({error}){_LINK_HINT}") from None
            library = cls(tracker)
        library._addresses.update((name, tracker[name]) for name in exports)
        return library

    def address(self, symbol: str) -> int:
        """The address of a function or variable that the object defines. Raises LinkError."""
        address = self._addresses.get(symbol)
        if address is None:
            with _lock:
                try:
                    tracker = _linker().lookup(self._trackers[0].name, symbol)
                except RuntimeError as error:
                    raise LinkError(f"cannot link {symbol!r} ({error}){_LINK_HINT}") from None
                self._trackers.append(tracker)
                address = self._addresses[symbol] = tracker[symbol]
        return address

    def function(self, symbol: str) -> Callable[[int], None]:
        """`function(self.address(symbol))` that also keeps the library loaded."""
        call = function(self.address(symbol))
        call.library = self
        return call

    def keep_forever(self) -> Library:
        """Never unload: for code that threads may be running when the interpreter exits."""
        _forever.append(self)
        return self

    def __del__(self) -> None:
        # The collector may run this anywhere, LLVM's own lock held or not: leave the unloading to the next load.
        if _dead is not None:
            _dead.append(getattr(self, "_trackers", ()))


_PROTOTYPE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def function(address: int) -> Callable[[int], None]:
    """A callable for a native `void(ptr)`. It takes the pointer as an int, and drops the GIL during the call."""
    return _PROTOTYPE(address)


class _Own(threading.local):
    emissions = 0  # of this thread, which may be forking in a signal handler in the middle of one


_own = _Own()
forks.hold(ffi.lib._lock._lock)
_lock = forks.hold(threading.RLock(), _wait_for_emissions)
_ended = threading.Condition(_lock)  # an emission has
_emissions: list[bool] = []  # the modules that code is being generated for: is it as it should be?
_serial = itertools.count()
_dead: deque[list] = deque()
_forever: list[Library] = []
_machines: dict[tuple[str, int], llvm.TargetMachine] = {}  # as many as targets are compiled for: few
_linker_instance: llvm.LLJIT | None = None


def _machine(target: CpuTarget, opt_level: int) -> llvm.TargetMachine:
    key = target.key(), opt_level
    if key not in _machines:
        _machines[key] = _new_machine(target, opt_level)
    return _machines[key]


def _new_machine(target: CpuTarget, opt_level: int) -> llvm.TargetMachine:
    _initialise_llvm()
    # Small and position-independent: constants are then memory operands of the instruction that uses them, and
    # the loader makes stubs for calls that go far. (llvmlite's default for a JIT is the large model.)
    return llvm.Target.from_triple(target.triple).create_target_machine(
        target.cpu, target.features, opt=opt_level, reloc="pic", codemodel="small", jit=True
    )


def _linker() -> llvm.LLJIT:
    """The process's one linker. Never destroyed (llvmlite disposes of nothing once the interpreter is exiting)."""
    global _linker_instance
    if _linker_instance is None:
        _initialise_llvm()
        # JITLink puts an object's sections into one mapping. The small code model needs them within 2 GiB of each
        # other, and the older linker maps each by itself, with room for a large tensor between them.
        _linker_instance = llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)
    return _linker_instance


def _initialise_llvm() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def _dispose_dead() -> None:
    while _dead:
        for tracker in reversed(_dead.popleft()):
            tracker.close()


def _optimised(llvm_text: str, target: CpuTarget, machine: llvm.TargetMachine, passes: str) -> llvm.ModuleRef:
    if passes not in PIPELINES:
        raise ValueError(f"unknown pass pipeline {passes!r}; expected one of {', '.join(PIPELINES)}")
    module = _parsed(llvm_text)
    try:
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
        PIPELINES[passes](module, machine)
    except RuntimeError as error:
        module.close()
        raise IRError(f"invalid LLVM IR: {str(error).strip()}") from None
    except BaseException:
        module.close()
        raise
    return module


def _check_room() -> None:
    """Raise OutOfMemory where the system would not give LLVM some memory: in want of it, LLVM ends the process."""
    try:
        mmap.mmap(-1, ROOM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise OutOfMemory(f"dlc cannot compile: less than {ROOM_BYTES >> 20} MiB of host memory are left") from None


def _parsed(llvm_text: str) -> llvm.ModuleRef:
    _check_room()
    try:
        return llvm.parse_assembly(llvm_text, llvm.create_context())
    except RuntimeError as error:
        message = str(error)
    place = re.search(r"<string>:(\d+):(\d+): (?:error: )?(.*)", message)
    if not place:
        raise IRError(f"cannot parse LLVM IR: {message.strip()}")
    line, reason = int(place[1]), place[3]
    lines = llvm_text.splitlines()
    text = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    raise IRError(f"cannot parse LLVM IR, line {line}: {reason}\n    {text}", line, text)


def _run_none(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Nothing: for IR that is already as it should be (unrolled GEMM tiles)."""


def _run_fast(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Local clean-up, a tenth of what code generation costs: variables to registers, branches, peepholes."""
    manager = llvm.create_new_module_pass_manager()
    manager.add_sroa_pass()
    manager.add_simplify_cfg_pass()
    manager.add_instruction_combine_pass()
    with llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1)) as builder:
        manager.run(module, builder)


def _run_simplify(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """LLVM's function simplification: `fast` and common subexpressions, loop-invariant code motion, induction."""
    with llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(1)) as builder:
        manager = builder.getFunctionPassManager()
        for function_ in module.functions:
            if not function_.is_declaration:
                manager.run(function_, builder)


def _run_full(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """LLVM's O3, with inlining and both vectorisers: for scalar loops that LLVM is to vectorise."""
    options = llvm.create_pipeline_tuning_options(3)
    options.loop_vectorization = options.slp_vectorization = True
    with llvm.create_pass_builder(machine, options) as builder:
        builder.getModulePassManager().run(module, builder)


# name -> what it runs on the module, in place; from cheap to dear
PIPELINES: dict[str, Callable[[llvm.ModuleRef, llvm.TargetMachine], None]] = {
    "none": _run_none,
    "fast": _run_fast,
    "simplify": _run_simplify,
    "full": _run_full,
}
