"""Kernels' machine code as cuobjdump lists it: registers, spills, occupancy, and the accesses of the main loop.

A kernel's main loop is every instruction of its own code that the flow of control can come to again: all its loops, the
one over rows or tiles around the others included. A kernel without a loop is its main loop as a whole. A function that
is called from there belongs to it with all its code, unless SLOW_PATHS has it. So what a kernel does once a row, a tile
or a vector is counted, and what it does once a thread is not. Counts are of instructions in the code, not of accesses
made: of two ways to load a vector, a launch takes one.

A spill is what ptxas marks as one (SpillRefill in the cubin), in the kernel or in a function that it calls, which
`ptxas -v` leaves out. Any other access to local memory is an array that could not stay in registers. Occupancy is that
of the largest block that the kernel's launch bounds allow, without dynamic shared memory.
"""

import collections
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

WIDTHS = [256, 128, 64, 32, 16, 8]
LOADS = [f"load{width}" for width in WIDTHS]
STORES = [f"store{width}" for width in WIDTHS]
COLUMNS = [
    *["threads", "registers", "shared", "blocks", "warps", "occupancy"],  # threads of the largest block; occupancy in %
    *["stack", "spill_stores", "spill_loads", "local"],  # bytes a thread; bytes; bytes; instructions
    *[*LOADS, *STORES, "generic", "generic_elsewhere"],  # instructions: of the main loop but for the last
]

# Functions that are called from main loops and are no part of them.
SLOW_PATHS = {
    "load_irregular": "a vector off a 16-byte boundary, or at the end of a stretch that is no whole number of vectors",
    "store_irregular": "the same, stored",
    "store_shifted": "vectors off a 16-byte boundary, by all lanes of a warp: whole words, and single elements at the ends",
    "coefficient_at": "an element that lies in another channel than its vector's first",
    "modulated": "a vector of a call with a scale or shift of each sample and channel",
    "merge_few": "the parts of a row, once a row",
    "merge_many": "the same, of more parts",
    "store_converted": "a vector of an output of another type than the input's",
    "store_quantized": "a vector of a quantized output",
}

# By opcode: whether it loads or stores, and whether it must find out the address space.
ACCESSES = {
    "LDG": ("load", False),
    "LDGSTS": ("load", False),
    "LD": ("load", True),
    "STG": ("store", False),
    "RED": ("store", False),
    "REDG": ("store", False),
    "ATOMG": ("store", False),
    "ST": ("store", True),
    "ATOM": ("store", True),
}

# Programmatic dependent launch is there from this capability on, and its wait is this instruction.
PROGRAMMATIC = 90
WAIT = "ACQBULK"
# What may not come before the wait, beside accesses: a function might make some; a kernel that returns without waiting, or
# lets the next one begin, leaves that one with nothing to wait for.
NOT_BEFORE_WAIT = {*ACCESSES, "CALL", "EXIT", "PREEXIT"}

# What is resident on a multiprocessor at most: warps, blocks, bytes of shared memory. (CUDA C++ Programming Guide,
# "Technical Specifications per Compute Capability".)
Limits = collections.namedtuple("Limits", "warps blocks shared")
LIMITS = {
    "sm_75": Limits(32, 16, 64 << 10),
    "sm_80": Limits(64, 32, 164 << 10),
    "sm_86": Limits(48, 16, 100 << 10),
    "sm_89": Limits(48, 24, 100 << 10),
    "sm_90": Limits(64, 32, 228 << 10),
    "sm_100": Limits(64, 32, 228 << 10),
    "sm_120": Limits(48, 24, 100 << 10),
}
REGISTERS = 64 << 10
PARTITIONS = 4  # of a multiprocessor: a warp's registers lie in one
REGISTER_UNIT = 256
WARP = 32

INSTRUCTION_BYTES = 16
Instruction = collections.namedtuple("Instruction", "condition opcode operands")


class Kernel:
    """One kernel's machine code for one architecture."""

    def __init__(self, name, architecture):
        self.name = name
        self.architecture = architecture
        self.threads = None
        self.resources = {}
        self.spills = set()  # addresses
        self.functions = {}  # address: name; the kernel itself is at 0, and what it calls follows
        self.code = {}  # address: Instruction

    def __str__(self):
        return f"{self.name} on {self.architecture}"


def kernels_of(images):
    """{(kernel, architecture): Kernel}"""
    found = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        files = []
        for image in images:
            for fatbin in fatbins(pathlib.Path(image).read_bytes()):
                files.append(pathlib.Path(folder) / f"{len(files)}.fatbin")
                files[-1].write_bytes(fatbin)
        for kernels in pool.map(kernels_of_fatbin, files):
            if twice := found.keys() & kernels.keys():
                fail(f"in two fatbins: {', '.join(' on '.join(key) for key in sorted(twice))}")
            found.update(kernels)
    return found


def fatbins(image):
    while image:
        magic, _, header, payload = struct.unpack_from("<IHHQ", image)
        if magic != 0xBA55ED50:
            fail("the image holds no kernels")
        size = header + payload
        yield image[:size]
        image = image[-(-size // 16) * 16 :]


def kernels_of_fatbin(fatbin):
    kernels = KernelsByName()
    read_elf(lines_of("cuobjdump", "-elf", fatbin), kernels)
    read_resources(lines_of("cuobjdump", "-res-usage", fatbin), kernels)
    read_code(lines_of("cuobjdump", "-sass", fatbin), kernels)
    return dict(kernels)


class KernelsByName(dict):
    def __missing__(self, key):
        return self.setdefault(key, Kernel(*key))


def lines_of(*command):
    """One at a time: the listing of a large fatbin has 100 MB."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield from process.stdout
    if process.returncode != 0:
        fail(f"{' '.join(map(str, command))} failed")


def fail(text):
    sys.exit(f"machine-code-table: {text}")


def architecture_in(line):
    match = re.match(r"\s*arch = (sm_\d+)", line)
    return match and match[1]


def read_elf(lines, kernels):
    """Launch bounds and spills out of .nv.info, and the functions of a kernel's section out of the symbol table."""
    architecture = kernel = attribute = None
    sections = collections.defaultdict(dict)
    for line in lines:
        if found := architecture_in(line):
            architecture = found
        elif match := SYMBOL.match(line):
            functions = sections[architecture, match["section"]]
            functions[int(match["address"], 16)] = match["name"]
            if match["other"] == "ENTRY":
                kernels[match["name"], architecture].functions = functions
        elif match := re.match(r"\.nv\.info\.(\w+)$", line):
            kernel = kernels[match[1], architecture]
        elif match := re.match(r"\s*Attribute:\s*(\w+)", line):
            attribute = match[1]
        elif match := re.search(r"SpillRefill :\s*Offset : 0x(\w+)", line):
            kernel.spills.add(int(match[1], 16))
        elif attribute in ("EIATTR_MAX_THREADS", "EIATTR_REQNTID") and (match := re.match(r"\s*Value:\s*(0x.*)", line)):
            x, y, z = (int(word, 16) for word in match[1].split())
            kernel.threads = x * y * z


SYMBOL = re.compile(
    r"\s*0x\w+\s+(?P<address>\w+)\s+\w+\s+FUNC\s+\w+\s+\w+\s+(?P<other>\S+)\s+(?P<section>\w+)\s+(?P<name>\S+)$"
)


def read_resources(lines, kernels):
    architecture = kernel = None
    for line in lines:
        if found := architecture_in(line):
            architecture = found
        elif match := re.match(r"\s*Function (\w+):", line):
            kernel = kernels[match[1], architecture]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            # From sm_90 on ptxas counts the reserve of every block as the kernel's own.
            own = max(0, shared - reserved(architecture)) if capability(architecture) >= 90 else shared
            kernel.resources = {"registers": registers, "stack": stack + local, "shared": own}


def read_code(lines, kernels):
    architecture = kernel = None
    for line in lines:
        if found := architecture_in(line):
            architecture = found
        elif match := re.match(r"\s*Function : (\w+)", line):
            kernel = kernels[match[1], architecture]
        elif match := INSTRUCTION.match(line):
            kernel.code[int(match[1], 16)] = Instruction(match[2], match[3], match[4])


INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*?)\s*;")


def capability(architecture):
    return int(architecture[3:])


def main_loop(kernel):
    """The addresses of its instructions."""
    flow, calls = flow_of(kernel, 0)
    loop = on_cycles(flow) or set(flow)
    pending = [calls[address] for address in loop if address in calls]
    entered = set()
    while pending:
        function = pending.pop()
        if function not in entered and slow_path(kernel.functions[function]) is None:
            entered.add(function)
            flow, calls = flow_of(kernel, function)
            loop.update(flow)
            pending += calls.values()
    return loop


def before_wait(kernel):
    """The instructions that a kernel comes to without having waited for the kernel before it, and must not."""
    found, entered, pending = [], set(), [0]
    while pending and capability(kernel.architecture) >= PROGRAMMATIC:
        address = pending.pop()
        name = kernel.code[address].opcode.split(".")[0]
        if address in entered or name == WAIT:
            continue
        entered.add(address)
        found += [f"{name} at {address:#x}"] if name in NOT_BEFORE_WAIT else []
        pending += successors(kernel, address)
    return found


def slow_path(function):
    """Which of them the mangled name means."""
    return next((name for name in SLOW_PATHS if f"{len(name)}{name}" in function), None)


def flow_of(kernel, function):
    """{address: those that may follow it} of what can be reached in one function, and {address: function it calls}."""
    end = min((start for start in kernel.functions if start > function), default=max(kernel.code) + INSTRUCTION_BYTES)
    flow, calls, pending = {}, {}, [function]
    while pending:
        address = pending.pop()
        if address in flow:
            continue
        flow[address] = []
        for target in successors(kernel, address):
            if target != function and target in kernel.functions:
                calls[address] = target
            elif function <= target < end:
                flow[address].append(target)
            else:
                fail(f"{kernel}: {address:#x} leads out of its function")
        pending += flow[address]
    return flow, calls


def successors(kernel, address):
    condition, opcode, operands = kernel.code[address]
    name = opcode.split(".")[0]
    following = address + INSTRUCTION_BYTES
    if name in ("EXIT", "RET"):
        return [following] if condition else []
    if name in ("BRX", "BRXU", "JMX", "JMXU", "JMP"):
        fail(f"{kernel}: where {opcode} at {address:#x} goes is not in the code")
    if name in ("BRA", "CALL") or opcode.startswith("WARPSYNC.COLLECTIVE"):
        target = re.search(r"(?:^|\s)0x([0-9a-f]+)$", operands)
        if not target:
            fail(f"{kernel}: cannot read {opcode} {operands} at {address:#x}")
        always = name == "BRA" and not condition and "," not in operands
        return [int(target[1], 16)] if always else [int(target[1], 16), following]
    return [following]


def on_cycles(flow):
    """The nodes from which a way leads back to them: the strongly connected components that hold an edge (Kosaraju)."""
    backward = collections.defaultdict(list)
    for node, targets in flow.items():
        for target in targets:
            backward[target].append(node)
    cyclic, placed = set(), set()
    for root in reversed(postorder(flow)):
        if root in placed:
            continue
        component, pending = set(), [root]
        while pending:
            node = pending.pop()
            if node not in placed:
                placed.add(node)
                component.add(node)
                pending += backward[node]
        if len(component) > 1 or root in flow[root]:
            cyclic |= component
    return cyclic


def postorder(flow):
    order, entered = [], set()
    for root in flow:
        pending = [(root, False)]
        while pending:
            node, done = pending.pop()
            if done:
                order.append(node)
            elif node not in entered:
                entered.add(node)
                pending.append((node, True))
                pending += [(target, False) for target in flow[node]]
    return order


def row_of(kernel):
    if kernel.threads is None:
        fail(f"{kernel}: no launch bounds, and so no block to compute occupancy for")
    row = dict.fromkeys(COLUMNS, 0)
    row.update(kernel.resources, threads=kernel.threads)
    row.update(occupancy(kernel.architecture, kernel.threads, row["registers"], row["shared"]))
    loop = main_loop(kernel)
    for address, instruction in kernel.code.items():
        name = instruction.opcode.split(".")[0]
        if name in ACCESSES:
            access, generic = ACCESSES[name]
            row[f"{access}{width(instruction.opcode)}"] += address in loop
            row["generic" if address in loop else "generic_elsewhere"] += generic
        elif name in ("LDL", "STL"):
            if address in kernel.spills:
                row["spill_loads" if name == "LDL" else "spill_stores"] += width(instruction.opcode) // 8
            else:
                row["local"] += 1
    return row


def width(opcode):
    """In bits, of LDG.E.128 and its kin; 32 where none is named."""
    named = [part.lstrip("US") for part in opcode.split(".") if re.fullmatch(r"[US]?(8|16|64|128|256)", part)]
    return int(named[0]) if named else 32


def occupancy(architecture, threads, registers, shared):
    """As cuda_occupancy.h, of the toolkit, has it."""
    if architecture not in LIMITS:
        fail(f"the limits of {architecture} are missing")
    limits = LIMITS[architecture]
    warps = -(-threads // WARP)
    of_warp = round_up(registers * WARP, REGISTER_UNIT)
    of_block = round_up(shared + reserved(architecture), 128 if capability(architecture) >= 80 else 256)
    blocks = min(
        limits.blocks,
        limits.warps // warps,
        REGISTERS // PARTITIONS // of_warp * PARTITIONS // warps,
        limits.shared // of_block if of_block else limits.blocks,
    )
    return {"blocks": blocks, "warps": blocks * warps, "occupancy": round(100 * blocks * warps / limits.warps, 1)}


def reserved(architecture):
    """Bytes of shared memory that every block has beside its own."""
    return 1024 if capability(architecture) >= 80 else 0


def round_up(number, unit):
    return -(-number // unit) * unit
