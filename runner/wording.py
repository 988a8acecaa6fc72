"""The words with which exceptions, Slurm, NCCL, the shell and Python tell how something ended: tables for `signs`."""

import errno

BY_TYPE = {
    "SupersededError": "superseded",
    "HangError": "hang",
    "PeerError": "peer crash",
    "NonFiniteLossError": "non-finite loss",
    "ConfigError": "configuration",
    "ImportError": "configuration",
    "DataError": "bad data",
    "UnidentifiedImageError": "bad data",
    "BadZipFile": "bad data",
    "BadGzipFile": "bad data",
    "LZMAError": "bad data",
    "zlib.error": "bad data",
    "SaveError": "peer crash",
    "CheckpointError": "bad checkpoint",
    "UnpicklingError": "bad checkpoint",
    "OutOfMemoryError": "CUDA out of memory",
    "MemoryError": "host out of memory",
}
"""Exceptions whose type says it all; a SaveError without a cause of its own is told by the rank that had one."""

BY_ERRNO = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "disk full"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.EREMOTEIO, errno.EROFS, errno.ENODEV, errno.ENXIO), "I/O error"),
    **dict.fromkeys((errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN), "I/O error"),
    **dict.fromkeys((errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE), "peer crash"),
    errno.ENOMEM: "host out of memory",
}

SPEAKERS = (
    *("RuntimeError", "OSError", "AcceleratorError", "error", "Error"),
    *("DistError", "DistBackendError", "DistNetworkError", "DistStoreError"),
)
"""Types whose text the runtime writes; what an AssertionError or a class of a user's says is the user's own wording."""

BY_TEXT: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "CUDA out of memory",
        (
            r"(CUDA|HIP|XPU)( error:| driver error:)? out of memory\b",
            r"_STATUS_ALLOC_FAILED",
            r"Cuda failure \d* ?'out of memory'",
        ),
    ),
    (
        "node failure",
        (
            r"uncorrectable (ECC|NVLink) error",
            r"fallen off the bus",
            r"hardware (stack )?error",
            r"CUDA error: (CUDA-capable device\(s\) is/are busy|no CUDA-capable device|unknown error)",
            r"CUDA error: (device is not ready|system driver mismatch)",
            r"Unexpected error from cudaGetDeviceCount",
            r"system not yet initialized",
        ),
    ),
    (
        "host out of memory",
        (
            r"DefaultCPUAllocator: (can't allocate|not enough) memory",
            r"Cannot allocate memory",
            r"std::bad_alloc",
            r"(out of|insufficient) shared memory",
            r"unable to mmap \d+ bytes",
        ),
    ),
    ("disk full", (r"No space left on device", r"Disk quota exceeded", r"PytorchStreamWriter failed writing file")),
    (
        "I/O error",
        (
            r"Stale file handle",
            r"(Input/output|Remote I/O) error",
            r"Cannot send after transport endpoint shutdown",
            r"Transport endpoint is not connected",
            r"Read-only file system",
            r"[Bb]us error",
        ),
    ),
    (
        "bad data",
        (
            r"image file is truncated",
            r"broken data stream when reading image",
            r"cannot identify image file",
            r"[Nn]ot a gzipped file",
        ),
    ),
    (
        "bad checkpoint",
        (
            r"PytorchStreamReader failed",
            r"Error\(s\) in loading state_dict",
            r"invalid load key",
            r"Weights only load failed",
        ),
    ),
    (
        "non-finite loss",
        (r"returned nan values in its \d+th output", r"total norm of order .* is non-finite"),
    ),
    (
        "hang",
        (
            r"Watchdog caught collective operation timeout",
            r"timed out in blocking wait",
            r"Timed out waiting \d+ms for \w+ operation",
            r"(wait|barrier) timeout after",
            r"waitForInput: socket .* timed out",
            r"monitoredBarrier in \d+",
            r"Application timeout caused pair closure",
            r"Operation timed out!",
        ),
    ),
    (
        "configuration",
        (
            r"Duplicate GPU detected",
            r"ncclInvalidUsage",
            r"cannot open shared object file",
            r"No CUDA GPUs are available",
        ),
    ),
    (
        "peer crash",
        (
            r"Connection (closed|reset) by( remote)? peer",
            r"Connection refused",
            r"Connection was likely closed",
            r"Broken pipe",
            r"nccl(Remote|System|Internal)Error",
            r"NCCL (communicator was aborted|error)",
            r"failed on SocketImpl",
            r"[Nn]o route to host",
        ),
    ),
    ("killed", (r"DataLoader worker .*(killed by signal|exited unexpectedly)",)),
)
"""The first row that fits counts: what breaks a machine before what its neighbours then say about the connection."""

SRUN = r"srun: error: "
_STEPD = r"slurmstepd(?:-\S+)?: error: "
_ENDED = rf"{_STEPD}\*\*\* (JOB|STEP) \S+ ON \S+ CANCELLED AT \S+"
_TASKS = rf"{SRUN}.*tasks? .*: "
_NCCL = r"^\[(rank\d+\]:\[)?E.*ProcessGroupNCCL\.cpp:\d+\] .*"
BY_LINE: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "host out of memory",
        (
            rf"{_STEPD}.*(oom[-_]kill|exceeded (virtual )?memory limit .*being killed)",
            rf"{_STEPD}Exceeded (job|step) memory limit$",
            rf"{_TASKS}Out Of Memory$",
        ),
    ),
    (
        "node failure",
        (
            rf"{SRUN}Node failure on ",
            rf"{_ENDED} DUE TO NODE FAILURE",
            rf"{_STEPD}\*\*\* .* UNCORRECTABLE MEMORY ERROR AT ",
            r"NVRM: Xid .*: (48|63|64|74|79|94|95),",
            r"GPU has fallen off the bus",
        ),
    ),
    ("preempted", (rf"{_ENDED} DUE TO PREEMPTION",)),
    ("time limit", (rf"{_ENDED} DUE TO TIME LIMIT",)),
    ("terminated", (rf"{_ENDED} DUE TO JOB REQUEUE",)),
    ("cancelled", (rf"{_STEPD}\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*$",)),
    (
        "launch failed",
        (
            rf"{SRUN}(Task launch for|Application launch failed|timeout waiting for task launch)",
            rf"{SRUN}(Unable to create step|(\S+: )?tasks? \S+ launch failed)",
            rf"{_STEPD}(execve\(|couldn't chdir|TaskProlog failed|.*task-prolog failed)",
            rf"{_STEPD}(Unable to create TMPDIR|TMPDIR \[.*\] is not)",
            rf"{_TASKS}User defined signal [12]$",
        ),
    ),
    ("hang", (rf"{_NCCL}(collective operation timeout|timed out in blocking wait)",)),
    (
        "host out of memory",
        (r"^ERROR: Unexpected bus error encountered in worker\. .*insufficient shared memory",),
    ),
    (
        "I/O error",
        (
            rf"{_TASKS}Bus error",
            r"^(Fatal Python error: )?Bus error",
            r"^.*(cannot (open|access|stat|read)|line \d+|error reading).*: (Stale file handle|Input/output error)",
        ),
    ),
    (
        "disk full",
        (r"^.*(write error|cannot (create|write)|[Ww]rite failed).*: (No space left on device|Disk quota exceeded)",),
    ),
    (
        "peer crash",
        (
            r"NCCL WARN .*(Connection (closed|reset)|Got completion from peer|failed : (Broken pipe|Connection))",
            rf"{_NCCL}NCCL (operations have failed|error)",
        ),
    ),
    (
        "killed",
        (
            rf"{_TASKS}(Killed|Segmentation fault|Aborted|Illegal instruction|Floating point exception)",
            r"^Fatal Python error: (Segmentation fault|Aborted|Illegal instruction)",
            r"(^|: )line \d+: +\d+ (Killed|Segmentation fault|Aborted)\b",
        ),
    ),
)
"""Lines of Slurm, of NCCL, of the shell and of Python itself; the first row that has a line counts."""

BASES = {
    **dict.fromkeys(("DistBackendError", "DistNetworkError", "DistStoreError"), ("DistError", "RuntimeError")),
    **dict.fromkeys(("AcceleratorError", "OutOfMemoryError", "NotImplementedError"), ("RuntimeError",)),
    **dict.fromkeys(("ConnectionResetError", "BrokenPipeError", "FileNotFoundError", "PermissionError"), ("OSError",)),
    **dict.fromkeys(("TimeoutError", "BlockingIOError", "BadGzipFile"), ("OSError",)),
    "OptionError": ("ConfigError", "ValueError"),
    "ModuleNotFoundError": ("ImportError",),
}
"""Bases of the types that a traceback names, as far as they matter here."""
