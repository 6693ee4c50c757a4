"""warpnorm from Python: one file, by ctypes, without a dependency of its own.

NumPy arrays and torch tensors on the CPU, torch tensors and whatever has ``__cuda_array_interface__`` on a GPU; the caller's
memory and stream, no copies. Functions are named and ordered as torch.nn.functional's::

    import numpy, warpnorm
    y = warpnorm.rms_norm(numpy.ones((2, 64), numpy.float32), [64], eps=1e-6)

    y = warpnorm.group_norm(x, 32, weight, bias, activation="silu")     # torch: on its current stream
    call = warpnorm.prepare(device, layer, signature)                   # decided once, launched often

What a call cannot do it refuses with a ``warpnorm.Error``, whose ``name`` is the C library's status. On a GPU calls are
asynchronous, as torch's are: memory must stay until the stream has come by, which torch's allocator sees to for the stream
that a tensor was made on.
"""

import ctypes
import os
import sys
from ctypes import POINTER, byref, c_char_p, c_double, c_int32, c_int64, c_uint32, c_uint64, c_void_p

_NONE, _F32, _F16, _BF16, _F64, _I8, _F8 = range(7)
_DTYPES = {"float32": _F32, "float16": _F16, "bfloat16": _BF16, "float64": _F64, "int8": _I8, "float8_e4m3fn": _F8}
_SIZES = {_F32: 4, _F16: 2, _BF16: 2, _F64: 8, _I8: 1, _F8: 1}
_SCALINGS = {None: 0, "static": 1, "rows": 2, "groups": 3, "groups_by_column": 4}
_ROUNDINGS = {None: 0, "steps": 128, "normalized": 256}
_LAYOUTS = {"NCHW": 0, "NHWC": 1}
_ACTIVATIONS = {None: 0, "relu": 1, "silu": 2, "gelu": 3, "gelu_tanh": 4}
_LAYER_NORM, _RMS_NORM, _GROUP_NORM, _INSTANCE_NORM, _BATCH_NORM = range(1, 6)
_WEIGHT_PLUS_ONE, _SCALE_PLUS_ONE, _TRACK_RUNNING_STATS, _BATCH_STATISTICS, _CUMULATIVE = 1, 2, 4, 8, 16
_POST_NORM = 64
_RESIDUAL, _SUM, _SUM_IN_RESIDUAL, _IN_PLACE, _CHANNEL_TABLE, _UPDATE, _COUNT, _SECOND_RESIDUAL = 1, 2, 4, 8, 16, 32, 64, 128
_KEY_OUTPUT, _KEY_IN_PLACE = 256, 512


class Error(Exception):
    """A refusal of the library, or of this module: ``name`` is a status, as in WN_STATUS_OVERLAP."""

    def __init__(self, status, name, message):
        super().__init__(f"{name}: {message}")
        self.status, self.name, self.message = status, name, message


def _invalid(message):
    return Error(2, "WN_STATUS_INVALID_VALUE", message)


class _Layer(ctypes.Structure):
    _fields_ = [
        ("kind", c_int32), ("layout", c_int32), ("activation", c_int32), ("flags", c_uint32),
        ("normalized_rank", c_int64), ("normalized_shape", c_int64 * 8), ("num_channels", c_int64),
        ("num_groups", c_int64), ("q_heads", c_int64), ("k_heads", c_int64), ("head_dim", c_int64), ("eps", c_double), ("momentum", c_double), ("reserved", c_int64 * 4),
    ]


class _Signature(ctypes.Structure):
    _fields_ = [
        ("dtype", c_int32), ("flags", c_uint32), ("rank", c_int64), ("shape", c_int64 * 8), ("weight", c_int32),
        ("bias", c_int32), ("scale", c_int32), ("shift", c_int32), ("channel_bias", c_int32), ("gate", c_int32),
        ("input_bias", c_int32), ("output", c_int32), ("post_norm_weight", c_int32), ("post_norm_bias", c_int32),
        ("scaling", c_int32), ("reserved", c_int32), ("input_row_stride", c_int64), ("residual_row_stride", c_int64),
        ("second_residual_row_stride", c_int64), ("sum_row_stride", c_int64), ("output_row_stride", c_int64),
        ("key_weight", c_int32), ("key_bias", c_int32), ("key_input_row_stride", c_int64),
        ("key_output_row_stride", c_int64),
    ]


class _Tensors(ctypes.Structure):
    _fields_ = [
        (name, c_void_p)
        for name in "input output residual second_residual sum weight bias scale shift channel_bias gate input_bias "
        "post_norm_weight post_norm_bias scales running_mean running_var num_batches_tracked channel_table key_input "
        "key_output key_weight key_bias workspace".split()
    ] + [("workspace_bytes", c_uint64), ("reserved", c_void_p * 4)]


class _Array(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_int64), ("dtype", c_int32), ("reserved", c_int32)]


class _Affine(ctypes.Structure):
    _fields_ = [
        ("kind", c_int32), ("reserved", c_int32), ("running_mean", _Array), ("running_var", _Array),
        ("weight", _Array), ("bias", _Array), ("eps", c_double),
    ]


class _Linear(ctypes.Structure):
    _fields_ = [
        ("kind", c_int32), ("padding", c_int32), ("groups", c_int64), ("weight", _Array), ("weight_rank", c_int64),
        ("weight_shape", c_int64 * 8), ("bias", _Array),
    ]


class _Branch(ctypes.Structure):
    _fields_ = [
        ("kind", c_int32), ("reserved", c_int32), ("linear", _Linear), ("strides", c_int64 * 3),
        ("dilations", c_int64 * 3), ("pads_begin", c_int64 * 3), ("pads_end", c_int64 * 3),
        ("after", POINTER(_Affine)), ("after_count", c_uint64),
    ]


class _FoldEps(ctypes.Structure):
    _fields_ = [("pattern", c_char_p), ("eps", c_double)]


class _FoldSafetensorsOptions(ctypes.Structure):
    _fields_ = [
        ("pairs", c_char_p), ("eps", POINTER(_FoldEps)), ("eps_count", c_uint64), ("only", POINTER(c_char_p)),
        ("only_count", c_uint64), ("skip", POINTER(c_char_p)), ("skip_count", c_uint64), ("dtype", c_int32),
        ("accept_names", c_int32), ("verify", c_int32), ("reserved", c_int32 * 5),
    ]


class _FoldOptions(ctypes.Structure):
    _fields_ = [
        ("forward", c_int32), ("merge_branches", c_int32), ("duplicate_shared", c_int32), ("freeze_inputs", c_int32),
        ("tidy", c_int32), ("dtype", c_int32), ("only", POINTER(c_char_p)), ("only_count", c_uint64),
        ("skip", POINTER(c_char_p)), ("skip_count", c_uint64), ("verify", c_uint64), ("tolerance", c_double),
        ("reserved", c_uint64 * 4),
    ]


class _FoldRow(ctypes.Structure):
    _fields_ = [
        ("node", c_char_p), ("op", c_char_p), ("code", c_char_p), ("sentence", c_char_p), ("channels", c_int64),
        ("channel", c_int64), ("max_abs_scale", c_double), ("min_var_plus_eps", c_double), ("is_refused", c_int32),
        ("warnings", c_int32),
    ]


_FoldRowFunction = ctypes.CFUNCTYPE(None, c_void_p, POINTER(_FoldRow))

_FUNCTIONS = {
    "wn_layer_norm": [POINTER(_Layer), c_int64, POINTER(c_int64)],
    "wn_rms_norm": [POINTER(_Layer), c_int64, POINTER(c_int64), c_double],
    "wn_group_norm": [POINTER(_Layer), c_int64, c_int64],
    "wn_instance_norm": [POINTER(_Layer), c_int64],
    "wn_batch_norm": [POINTER(_Layer), c_int64],
    "wn_qk_rms_norm": [POINTER(_Layer), c_int64, c_int64, c_int64, c_double],
    "wn_qk_layer_norm": [POINTER(_Layer), c_int64, c_int64, c_int64],
    "wn_signature_init": [POINTER(_Signature), c_int64, POINTER(c_int64), c_int32],
    "wn_device_cpu": [POINTER(c_void_p)],
    "wn_device_cuda": [c_int32, POINTER(c_void_p)],
    "wn_device_current": [POINTER(c_void_p)],
    "wn_device_programmatic_launch": [c_void_p, c_int32, POINTER(c_void_p)],
    "wn_device_destroy": [c_void_p],
    "wn_device_is_cuda": [c_void_p, POINTER(c_int32)],
    "wn_device_name": [c_void_p, c_char_p, c_uint64],
    "wn_workspace_init": [c_void_p, c_void_p, c_uint64, c_void_p],
    "wn_prepare": [c_void_p, POINTER(_Layer), POINTER(_Signature), POINTER(c_void_p)],
    "wn_call_destroy": [c_void_p],
    "wn_call_workspace_bytes": [c_void_p, POINTER(c_uint64)],
    "wn_launch": [c_void_p, POINTER(_Tensors), c_void_p],
    "wn_fold": [
        POINTER(_Linear), POINTER(_Affine), c_uint64, POINTER(_Affine), c_uint64, c_int32, c_void_p, c_int64,
        c_void_p, c_int64, c_void_p,
    ],
    "wn_fold_branches": [
        POINTER(_Branch), c_uint64, c_int32, c_void_p, c_int64, c_void_p, c_int64, POINTER(c_uint64), c_void_p,
    ],
    "wn_fold_onnx": [c_char_p, c_char_p, POINTER(_FoldOptions), _FoldRowFunction, c_void_p, c_void_p],
    "wn_fold_safetensors": [
        c_char_p, c_char_p, POINTER(_FoldSafetensorsOptions), _FoldRowFunction, c_void_p, c_void_p,
    ],
}
_library = None


def load(path=None):
    """Loads the library: from ``path``, else from where WARPNORM_LIBRARY says, else from beside this file, else by the
    system's search. Happens by itself at the first use."""
    global _library
    if _library is None or path is not None:
        beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libwarpnorm.so")
        path = path or os.environ.get("WARPNORM_LIBRARY") or (beside if os.path.exists(beside) else "libwarpnorm.so")
        library = ctypes.CDLL(path)
        for name, arguments in _FUNCTIONS.items():
            getattr(library, name).argtypes = arguments
        for name in ("wn_last_error", "wn_version", "wn_status_name"):
            getattr(library, name).restype = c_char_p
        library.wn_status_name.argtypes = [c_int32]
        _library = library
    return _library


def version():
    """The library's version, as in ``0.1.0``."""
    return load().wn_version().decode()


def _check(status):
    if status:
        library = load()
        raise Error(status, library.wn_status_name(status).decode(), library.wn_last_error().decode())


class Device:
    """Where calls run. Keep one: making it loads the kernels, which takes milliseconds."""

    _cpu = None
    _cuda = {}

    def __init__(self, make, *arguments):
        self._handle = c_void_p()
        _check(getattr(load(), make)(*arguments, byref(self._handle)))

    @classmethod
    def cpu(cls):
        """The CPU."""
        cls._cpu = cls._cpu or cls("wn_device_cpu")
        return cls._cpu

    @classmethod
    def cuda(cls, ordinal=0):
        """The primary context of a CUDA device, which torch and JAX use. The same one at each call."""
        if ordinal not in cls._cuda:
            cls._cuda[ordinal] = cls("wn_device_cuda", ordinal)
        return cls._cuda[ordinal]

    @classmethod
    def current(cls):
        """The CUDA context that is current to this thread. It must live longer than the device."""
        return cls("wn_device_current")

    def programmatic_launch(self, wanted=True):
        """The same device; but its calls may be launched before what is before them on the stream has finished, which hides
        what a launch costs the GPU. On chips before compute capability 9.0, and on the CPU, nothing changes."""
        return Device("wn_device_programmatic_launch", self._handle, wanted)

    @property
    def is_cuda(self):
        answer = c_int32()
        _check(load().wn_device_is_cuda(self._handle, byref(answer)))
        return bool(answer.value)

    @property
    def name(self):
        name = ctypes.create_string_buffer(256)
        _check(load().wn_device_name(self._handle, name, len(name)))
        return name.value.decode()

    def init_workspace(self, address, nbytes, stream=0):
        """Makes a workspace of ``nbytes`` at ``address``, once: fills it with zeros, on the stream."""
        _check(load().wn_workspace_init(self._handle, address, nbytes, stream or None))

    def __del__(self):
        if _library is not None and getattr(self, "_handle", None):
            _library.wn_device_destroy(self._handle)


def _extents(values):
    values = [values] if isinstance(values, int) else list(values)
    return len(values), (c_int64 * max(len(values), 1))(*values)


class Layer:
    """A layer: made by ``layer(kind, …)``."""

    def __init__(self, raw):
        self._raw = raw


def layer(kind, *, normalized_shape=None, num_channels=None, num_groups=None, q_heads=None, k_heads=None, head_dim=None,
          eps=None, layout="NCHW", activation=None, weight_plus_one=False, scale_plus_one=False, post_norm=False,
          rounding=None, track_running_stats=False, batch_statistics=False, momentum=0.1):
    """A layer of kind "layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", or, for the query and key heads
    of attention, "qk_rms_norm" or "qk_layer_norm". ``rounding`` is None for once, "steps" or "normalized"; ``momentum=None``
    is the average of all batches."""
    raw = _Layer()
    library = load()
    if kind == "layer_norm":
        _check(library.wn_layer_norm(byref(raw), *_extents(normalized_shape)))
    elif kind == "rms_norm":
        _check_eps(kind, eps)
        _check(library.wn_rms_norm(byref(raw), *_extents(normalized_shape), eps))
    elif kind == "group_norm":
        _check(library.wn_group_norm(byref(raw), num_groups, num_channels))
    elif kind == "instance_norm":
        _check(library.wn_instance_norm(byref(raw), num_channels))
    elif kind == "batch_norm":
        _check(library.wn_batch_norm(byref(raw), num_channels))
    elif kind == "qk_rms_norm":
        _check_eps(kind, eps)
        _check(library.wn_qk_rms_norm(byref(raw), q_heads, k_heads, head_dim, eps))
    elif kind == "qk_layer_norm":
        _check(library.wn_qk_layer_norm(byref(raw), q_heads, k_heads, head_dim))
    else:
        raise _invalid(f"no layer is called {kind!r}")
    raw.layout = _code(_LAYOUTS, layout, "layout")
    raw.activation = _code(_ACTIVATIONS, activation, "activation")
    if eps is not None:
        raw.eps = eps
    options = [
        (weight_plus_one, _WEIGHT_PLUS_ONE), (scale_plus_one, _SCALE_PLUS_ONE),
        (track_running_stats, _TRACK_RUNNING_STATS), (batch_statistics, _BATCH_STATISTICS),
        (momentum is None, _CUMULATIVE), (post_norm, _POST_NORM),
    ]
    raw.flags |= sum(flag for is_set, flag in options if is_set) | _code(_ROUNDINGS, rounding, "rounding")
    raw.momentum = 0.0 if momentum is None else momentum
    return Layer(raw)


def _check_eps(kind, eps):
    if eps is None:
        raise _invalid(f"{kind} has no default eps: models differ")


def _code(codes, value, argument):
    if value not in codes:
        raise _invalid(f"{argument} is {value!r}, not one of {', '.join(map(str, codes))}")
    return codes[value]


class Signature:
    """What a call looks like before there are buffers: made by ``signature(shape, dtype, …)``."""

    def __init__(self, raw):
        self._raw = raw


def signature(shape, dtype, *, weight=None, bias=None, scale=None, shift=None, channel_bias=None, gate=None,
              input_bias=None, post_norm_weight=None, post_norm_bias=None, output=None, scaling=None, residual=False,
              second_residual=False, sum=False, sum_in_residual=False, in_place=False, channel_table=False,
              update_running_statistics=False, num_batches_tracked=False, input_row_stride=0, residual_row_stride=0,
              second_residual_row_stride=0, sum_row_stride=0, output_row_stride=0, key_weight=None, key_bias=None,
              key_output=False, key_in_place=False, key_input_row_stride=0, key_output_row_stride=0):
    """Types are "float32", "float16", "bfloat16", or None for what there is not; strides in elements, 0 for none. An output of
    "int8" or "float8_e4m3fn" has a scaling: "static", "rows", "groups" or "groups_by_column"."""
    raw = _Signature()
    _check(load().wn_signature_init(byref(raw), *_extents(shape), _code(_DTYPES, dtype, "dtype")))
    coefficients = dict(weight=weight, bias=bias, scale=scale, shift=shift, channel_bias=channel_bias, gate=gate,
                        input_bias=input_bias, post_norm_weight=post_norm_weight, post_norm_bias=post_norm_bias,
                        output=output, key_weight=key_weight, key_bias=key_bias)
    for name, found in coefficients.items():
        setattr(raw, name, _NONE if found is None else _code(_DTYPES, found, name))
    options = [
        (residual or sum or sum_in_residual, _RESIDUAL), (sum, _SUM), (sum_in_residual, _SUM_IN_RESIDUAL),
        (in_place, _IN_PLACE), (channel_table, _CHANNEL_TABLE), (update_running_statistics, _UPDATE),
        (num_batches_tracked, _COUNT), (second_residual, _SECOND_RESIDUAL), (key_output, _KEY_OUTPUT),
        (key_in_place, _KEY_IN_PLACE),
    ]
    for is_set, flag in options:
        raw.flags |= flag if is_set else 0
    raw.scaling = _code(_SCALINGS, scaling, "scaling")
    strides = dict(input_row_stride=input_row_stride, residual_row_stride=residual_row_stride,
                   second_residual_row_stride=second_residual_row_stride, sum_row_stride=sum_row_stride,
                   output_row_stride=output_row_stride, key_input_row_stride=key_input_row_stride,
                   key_output_row_stride=key_output_row_stride)
    for name, stride in strides.items():
        setattr(raw, name, stride)
    return Signature(raw)


class Call:
    """A call of which everything but the buffers is decided. A launch allocates nothing, and can be captured into a graph."""

    def __init__(self, device, layer, signature):
        self._handle, self._device = c_void_p(), device
        _check(load().wn_prepare(device._handle, byref(layer._raw), byref(signature._raw), byref(self._handle)))
        nbytes = c_uint64()
        _check(load().wn_call_workspace_bytes(self._handle, byref(nbytes)))
        self.workspace_bytes = nbytes.value
        self._launch = load().wn_launch

    def launch(self, stream=0, *, workspace=0, workspace_bytes=0, **addresses):
        """Launches on a stream (an integer, as torch's ``stream.cuda_stream``), by addresses (integers, as ``data_ptr()``):
        input, output, residual, second_residual, sum, weight, bias, scale, shift, channel_bias, gate, input_bias,
        post_norm_weight, post_norm_bias, scales, running_mean, running_var, num_batches_tracked, channel_table, key_input,
        key_output, key_weight, key_bias."""
        self.launch_tensors(_Tensors(workspace=workspace, workspace_bytes=workspace_bytes, **addresses), stream)

    def launch_tensors(self, tensors, stream=0):
        """The same by a structure that was filled before, by ``tensors(…)``: the least that a launch can cost."""
        status = self._launch(self._handle, tensors, stream or None)
        if status:
            _check(status)

    def __del__(self):
        if _library is not None and getattr(self, "_handle", None):
            _library.wn_call_destroy(self._handle)


def prepare(device, layer, signature):
    """Makes all decisions of a call once."""
    return Call(device, layer, signature)


def tensors(**addresses):
    """Addresses for ``Call.launch_tensors``, and ``workspace_bytes``."""
    return _Tensors(**addresses)


class _Buffer:
    """An array or tensor, as far as a call needs to know it."""

    def __init__(self, value, argument):
        self.value, self.stream = value, 0
        if hasattr(value, "data_ptr"):
            self._from_torch(value, argument)
        elif hasattr(value, "__cuda_array_interface__"):
            self._from_interface(value.__cuda_array_interface__, value, argument)
            self.ordinal = getattr(getattr(value, "device", None), "id", None) or 0
        elif hasattr(value, "__array_interface__"):
            self._from_interface(value.__array_interface__, value, argument)
            self.ordinal = None
        else:
            raise _invalid(f"{argument} is a {type(value).__name__}: no NumPy array, no torch tensor, and it has no "
                           "__cuda_array_interface__")

    def _from_torch(self, value, argument):
        self.address, self.shape = value.data_ptr(), tuple(value.shape)
        self.strides = tuple(value.stride())
        self.dtype = str(value.dtype).removeprefix("torch.")
        self.ordinal = None
        if value.is_cuda:
            self.ordinal = value.device.index or 0
            torch = sys.modules.get("torch")
            if torch and isinstance(value, torch.Tensor):
                self.stream = torch.cuda.current_stream(value.device).cuda_stream
        elif getattr(value.device, "type", "cpu") != "cpu":
            raise _invalid(f"{argument} lies on {value.device}")

    def _from_interface(self, interface, value, argument):
        self.address, is_read_only = interface["data"]
        self.is_read_only = is_read_only
        self.shape = tuple(interface["shape"])
        kind, size = interface["typestr"][1:2], int(interface["typestr"][2:])
        named = str(getattr(value, "dtype", ""))
        self.dtype = named if named in _DTYPES or named == "int64" else {"f": f"float{size * 8}", "i": f"int{size * 8}"}.get(kind, named)
        strides = interface.get("strides")
        if strides is None:
            self.strides = _contiguous(self.shape)
        elif any(stride % size for stride in strides):
            raise _invalid(f"{argument} has strides of {strides} bytes, which are no multiples of its elements' {size}")
        else:
            self.strides = tuple(stride // size for stride in strides)
        self.stream = interface.get("stream") or 0

    def is_contiguous(self):
        return self._lies_as(_contiguous(self.shape))

    def is_channels_last(self):
        """Shape ``[N, C, spatial…]``, in memory ``[N, spatial…, C]``: torch's channels_last."""
        if len(self.shape) < 3:
            return False
        n, c, *spatial = self.shape
        strides = _contiguous((n, *spatial, c))
        return self._lies_as((strides[0], strides[-1], *strides[1:-1]))

    def _lies_as(self, strides):
        return all(extent == 1 or found == stride for extent, found, stride in zip(self.shape, self.strides, strides)) \
            or 0 in self.shape

    def row_stride(self, argument, axes):
        """Elements between rows, which are the last ``axes`` axes; 0 where rows follow each other."""
        if self.is_contiguous():
            return 0
        above, row = len(self.shape) - axes, self.shape[len(self.shape) - axes:]
        # The distance of two rows is that along the last axis before them which has two.
        strides = [self.strides[axis] for axis in range(above) if self.shape[axis] > 1]
        stride = strides[-1] if strides else _count(row)
        expected = [step * stride for step in _contiguous(self.shape[:above])] + list(_contiguous(row))
        if stride >= _count(row) and self._lies_as(expected):
            return stride
        raise _invalid(f"{argument} has strides {self.strides} of shape {self.shape}, which are no rows of one stride; "
                       "nothing is copied here in silence")


def _contiguous(shape):
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def _empty_like(value, argument="out"):
    module = sys.modules.get(type(value).__module__.partition(".")[0])
    if hasattr(module, "empty_like"):
        return module.empty_like(value)
    raise _invalid(f"no {argument} was given, and a {type(value).__name__} cannot be made here")


_workspaces = {}


def _workspace(device, nbytes, stream, like):
    """Memory of torch's for a stream, kept and grown; calls on one stream follow each other, and may share it."""
    key = (id(device), stream)
    kept = _workspaces.get(key)
    if kept is None or kept.numel() < nbytes:
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(like, "data_ptr"):
            raise _invalid(f"the call needs a workspace of {nbytes} bytes: give one by workspace=Workspace(…)")
        kept = torch.empty(nbytes, dtype=torch.uint8, device=like.device)
        device.init_workspace(kept.data_ptr(), nbytes, stream)
        _workspaces[key] = kept
    return kept.data_ptr(), kept.numel()


class Workspace:
    """Memory of the caller's, of any array type, in which the blocks of a launch meet. Calls that may run at the same time
    need one each."""

    def __init__(self, device, memory, stream=0):
        buffer = memory if isinstance(memory, _Buffer) else None
        if buffer is None:
            interface = getattr(memory, "__cuda_array_interface__", None)
            self.address = memory.data_ptr() if interface is None else interface["data"][0]
            count = 1
            for extent in memory.shape:
                count *= extent
            self.nbytes = count * (memory.element_size() if interface is None else int(interface["typestr"][2:]))
        self.memory = memory
        device.init_workspace(self.address, self.nbytes, stream)


_COEFFICIENTS = ("weight", "bias", "scale", "shift", "channel_bias", "gate", "input_bias", "post_norm_weight",
                 "post_norm_bias")
_ROWS = ("input", "output", "residual", "second_residual", "sum")  # of x's shape


def _run(layer, x, shape_of, *, weight=None, bias=None, scale=None, shift=None, channel_bias=None, gate=None,
         input_bias=None, post_norm_weight=None, post_norm_bias=None, residual=None, second_residual=None, sum=None,
         sum_in_residual=False, running_mean=None, running_var=None, num_batches_tracked=None, moves=False, out=None,
         output=None, scaling=None, scales=None, stream=None, device=None, workspace=None, rows=0,
         channels_last=False):
    x_value, x = x, _Buffer(x, "x")
    if out is None and (scaling is not None or output is not None):
        raise _invalid("an output of another type than x's must be given by out=")
    out = _empty_like(x_value) if out is None else out
    given = {"input": x, "output": x if out is x_value else _Buffer(out, "out")}
    optional = dict(weight=weight, bias=bias, scale=scale, shift=shift, channel_bias=channel_bias, gate=gate,
                    input_bias=input_bias, post_norm_weight=post_norm_weight, post_norm_bias=post_norm_bias,
                    residual=residual, second_residual=second_residual, sum=sum, scales=scales, running_mean=running_mean,
                    running_var=running_var, num_batches_tracked=num_batches_tracked)
    given.update((name, _Buffer(value, name)) for name, value in optional.items() if value is not None)

    if output is not None:
        if given["output"].dtype not in ("uint8", output):
            raise Error(12, "WN_STATUS_ELEMENT_TYPE", f"out is {given['output'].dtype}, not uint8 in {output}'s place")
        given["output"].dtype = output
    written = {"output", "sum"}
    written.update(name for is_written, name in [
        (sum_in_residual, "residual"), (scaling != "static", "scales"), (moves, "running_mean"), (moves, "running_var"),
        (moves, "num_batches_tracked"),
    ] if is_written)
    for name, buffer in given.items():
        shown = "out" if name == "output" else name
        if buffer.ordinal != x.ordinal:
            raise Error(2, "WN_STATUS_INVALID_VALUE", f"{shown} lies on another device than x")
        full = name in _ROWS
        if full and buffer.shape != x.shape:
            raise _invalid(f"{shown} has the shape {buffer.shape}, and x {x.shape}")
        if full and buffer.dtype != x.dtype and name != "output":
            raise Error(12, "WN_STATUS_ELEMENT_TYPE", f"{shown} is {buffer.dtype}, and x {x.dtype}")
        if name in ("running_mean", "running_var", "scales") and buffer.dtype != "float32":
            raise Error(12, "WN_STATUS_ELEMENT_TYPE", f"{shown} is {buffer.dtype}, not float32")
        if name == "num_batches_tracked" and buffer.dtype != "int64":
            raise Error(12, "WN_STATUS_ELEMENT_TYPE", f"{shown} is {buffer.dtype}, not int64")
        if name in written and getattr(buffer, "is_read_only", False):
            raise _invalid(f"{shown} may not be written")
        if full and channels_last and not buffer.is_channels_last():
            raise _invalid(f"{shown} is not laid out as x: {buffer.strides}")
        if not (full and (rows or channels_last)) and not buffer.is_contiguous():
            raise _invalid(f"{shown} is not contiguous: nothing is copied here in silence")
    _check_lengths(given, x, shape_of)

    strides = {}
    if rows:
        for name in _ROWS:
            if name in given:
                strides[f"{name}_row_stride"] = given[name].row_stride(name, rows)
    in_place = given["output"].address == x.address and x.address != 0
    if in_place:
        strides["input_row_stride"] = 0
    types = {name: given[name].dtype if name in given else None for name in _COEFFICIENTS}
    types["output"] = given["output"].dtype
    shape = x.shape
    if channels_last:
        shape = (shape[0], *shape[2:], shape[1])
    signed = signature(shape, x.dtype, **types, scaling=scaling, residual="residual" in given,
                       second_residual="second_residual" in given, sum="sum" in given,
                       sum_in_residual=sum_in_residual, in_place=in_place, update_running_statistics=moves,
                       num_batches_tracked="num_batches_tracked" in given, **strides)
    if device is None:
        device = Device.cpu() if x.ordinal is None else Device.cuda(x.ordinal)
    stream = x.stream if stream is None else stream
    call = Call(device, layer, signed)
    addresses = {name: buffer.address for name, buffer in given.items() if not (in_place and name == "input")}
    if call.workspace_bytes:
        if workspace is None:
            found = _workspace(device, call.workspace_bytes, stream, x_value)
        else:
            found = workspace.address, workspace.nbytes
        addresses["workspace"], addresses["workspace_bytes"] = found
    call.launch(stream, **addresses)
    return out


def _check_lengths(given, x, shape_of):
    """The C library trusts the lengths of buffers; here they are known."""
    for name, buffer in given.items():
        expected = shape_of.get(name)
        if expected is not None and _count(buffer.shape) != _count(expected):
            raise Error(19, "WN_STATUS_LENGTH", f"{name} has the shape {buffer.shape}, expected {tuple(expected)}")


def _count(shape):
    count = 1
    for extent in shape:
        count *= extent
    return count


def _trailing(x, normalized_shape, scaling):
    """The trailing axes, and the shapes of what goes by them: one for all, one for each index of the first axis, or those of
    the scales."""
    normalized_shape = [normalized_shape] if isinstance(normalized_shape, int) else list(normalized_shape)
    shape = _Buffer(x, "x").shape
    samples = shape[:1] if len(shape) > len(normalized_shape) else [1]
    of_columns = ("weight", "bias", "input_bias", "post_norm_weight", "post_norm_bias")
    shape_of = dict.fromkeys(of_columns, normalized_shape)
    shape_of.update(dict.fromkeys(("scale", "shift", "gate"), [*samples, *normalized_shape]))
    rows, groups = _count(shape[:max(len(shape) - len(normalized_shape), 0)]), -(-_count(normalized_shape) // 128)
    scales = {"static": [1], "rows": [rows], "groups": [rows, groups], "groups_by_column": [groups, rows]}
    shape_of["scales"] = scales.get(scaling)
    return normalized_shape, shape_of


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5, *, scale_plus_one=False, post_norm=False,
               rounding=None, activation=None, **options):
    """LayerNorm over the trailing axes. Options of this and the next function: ``residual`` (added before), ``sum`` (where
    input + residual goes) or ``sum_in_residual=True``, ``scale``, ``shift`` (behind weight and bias) and ``gate`` (of the
    input) of ``[x.shape[0], *normalized_shape]``, ``input_bias`` (before the gate), ``second_residual``, ``out`` (``x``
    itself: in place), ``stream``, ``device``.

    With ``post_norm=True`` the input has a norm of its own before the residual is added, by ``post_norm_weight`` and
    ``post_norm_bias``. ``rounding`` is None for once, at the end; "steps", where each step before the norm is rounded to x's
    type; or "normalized", where the normalized value is too, before the weight multiplies it.

    A quantized ``out``, of int8 or float8_e4m3fn, has ``scales`` of float32, by ``scaling``: "static" (one, given), or, made
    of the values and written, "rows" (``[rows]``), "groups" of 128 elements (``[rows, groups]``) or "groups_by_column"
    (``[groups, rows]``). NumPy alone has no float8: there ``out`` is uint8, with ``output="float8_e4m3fn"``."""
    normalized_shape, shape_of = _trailing(x, normalized_shape, options.get("scaling"))
    made = layer("layer_norm", normalized_shape=normalized_shape, eps=eps, activation=activation,
                 scale_plus_one=scale_plus_one, post_norm=post_norm, rounding=rounding)
    return _run(made, x, shape_of, weight=weight, bias=bias, rows=len(normalized_shape), **options)


def rms_norm(x, normalized_shape, weight=None, bias=None, *, eps, weight_plus_one=False, scale_plus_one=False,
             post_norm=False, rounding=None, activation=None, **options):
    """RMSNorm over the trailing axes. ``eps`` has no default: models differ."""
    normalized_shape, shape_of = _trailing(x, normalized_shape, options.get("scaling"))
    made = layer("rms_norm", normalized_shape=normalized_shape, eps=eps, activation=activation, post_norm=post_norm,
                 rounding=rounding, weight_plus_one=weight_plus_one, scale_plus_one=scale_plus_one)
    return _run(made, x, shape_of, weight=weight, bias=bias, rows=len(normalized_shape), **options)


def _image(x, channels_last):
    """Channels, and whether memory is ``[N, spatial…, C]``, of ``x`` of shape ``[N, C, spatial…]``."""
    buffer = _Buffer(x, "x")
    if len(buffer.shape) < 2:
        raise Error(5, "WN_STATUS_SHAPE", f"x has the shape {buffer.shape}, expected [N, C] and up to 3 spatial axes behind")
    if channels_last is None:
        channels_last = not buffer.is_contiguous() and buffer.is_channels_last()
    return buffer.shape[0], buffer.shape[1], channels_last


def _lengths(samples, channels):
    of_channels = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (channels,))
    of_samples = dict.fromkeys(("scale", "shift", "channel_bias"), (samples, channels))
    return {**of_channels, **of_samples, "num_batches_tracked": (1,)}


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5, *, scale_plus_one=False, activation=None,
               channels_last=None, **options):
    """GroupNorm of ``x[N, C, spatial…]``; NHWC where its memory is torch's channels_last (NumPy: a transposed view). Options,
    also of those below: ``scale``, ``shift``, ``channel_bias`` of ``[N, C]``, and those of layer_norm."""
    samples, channels, channels_last = _image(x, channels_last)
    made = layer("group_norm", num_groups=num_groups, num_channels=channels, eps=eps, activation=activation,
                 layout="NHWC" if channels_last else "NCHW", scale_plus_one=scale_plus_one)
    return _run(made, x, _lengths(samples, channels), weight=weight, bias=bias, channels_last=channels_last, **options)


def instance_norm(x, running_mean=None, running_var=None, weight=None, bias=None, eps=1e-5, *, scale_plus_one=False,
                  activation=None, channels_last=None, **options):
    """InstanceNorm; by running statistics where they are given (torch's ``use_input_stats=False``)."""
    samples, channels, channels_last = _image(x, channels_last)
    made = layer("instance_norm", num_channels=channels, eps=eps, activation=activation,
                 layout="NHWC" if channels_last else "NCHW", scale_plus_one=scale_plus_one,
                 track_running_stats=running_mean is not None)
    return _run(made, x, _lengths(samples, channels), weight=weight, bias=bias, running_mean=running_mean,
                running_var=running_var, channels_last=channels_last, **options)


def batch_norm(x, running_mean=None, running_var=None, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *,
               num_batches_tracked=None, activation=None, channels_last=None, **options):
    """BatchNorm by running statistics, or with ``training=True`` by those of the batch, which move the running ones."""
    samples, channels, channels_last = _image(x, channels_last)
    made = layer("batch_norm", num_channels=channels, eps=eps, activation=activation,
                 layout="NHWC" if channels_last else "NCHW", batch_statistics=training, momentum=momentum)
    return _run(made, x, _lengths(samples, channels), weight=weight, bias=bias, running_mean=running_mean,
                running_var=running_var, num_batches_tracked=num_batches_tracked,
                moves=training and running_mean is not None, channels_last=channels_last, **options)


class _Arrays:
    """Keeps what the structures of a fold point to."""

    def __init__(self):
        self.kept = []

    def array(self, value, argument):
        import numpy

        if value is None:
            return _Array()
        value = numpy.ascontiguousarray(value)
        self.kept.append(value)
        return _Array(value.ctypes.data, value.size, _code(_DTYPES, str(value.dtype), argument))

    def conv(self, weight, bias, groups, kind=1):
        rank, shape = _extents(weight.shape)
        return _Linear(kind, 0, groups, self.array(weight, "weight"), rank, (c_int64 * 8)(*shape),
                       self.array(bias, "bias"))

    def batch_norm(self, running_mean, running_var, weight, bias, eps):
        return _Affine(0, 0, self.array(running_mean, "running_mean"), self.array(running_var, "running_var"),
                       self.array(weight, "bn_weight"), self.array(bias, "bn_bias"), eps)


def fold_conv_bn(weight, bias, running_mean, running_var, bn_weight=None, bn_bias=None, eps=None, *, groups=1,
                 transposed=False):
    """The weight and bias of a convolution (or, of two axes, of a linear layer) that has absorbed the BatchNorm behind it:
    new NumPy arrays of the weight's type, computed in f64 and rounded once. ``eps`` has no default: 1e-5 and 1e-3 are both
    common, and a wrong one is silent."""
    import numpy

    if eps is None:
        raise _invalid("fold_conv_bn has no default eps: it is the BatchNorm's")
    arrays = _Arrays()
    weight = numpy.ascontiguousarray(weight)
    kind = 3 if weight.ndim == 2 else 2 if transposed else 1
    channels = weight.shape[1] * groups if kind == 2 else weight.shape[0]
    folded = numpy.empty_like(weight)
    folded_bias = numpy.empty(channels, weight.dtype)
    linear = arrays.conv(weight, bias, groups, kind)
    batch_norm = arrays.batch_norm(running_mean, running_var, bn_weight, bn_bias, eps)
    dtype = _code(_DTYPES, str(weight.dtype), "weight")
    _check(load().wn_fold(byref(linear), None, 0, byref(batch_norm), 1, dtype, folded.ctypes.data, folded.size,
                          folded_bias.ctypes.data, folded_bias.size, None))
    return folded, folded_bias


class Branch:
    """A term of a sum, for ``fold_branches``: a convolution, or without ``weight`` the input itself, and the BatchNorm behind
    it where there is ``running_mean``. ``stride``, ``dilation`` and ``padding`` are as torch's: a number, or one an axis."""

    def __init__(self, weight=None, bias=None, running_mean=None, running_var=None, bn_weight=None, bn_bias=None, eps=None,
                 *, stride=1, dilation=1, padding=0, groups=1):
        import numpy

        if running_mean is not None and eps is None:
            raise _invalid("a branch with a BatchNorm has no default eps: it is the BatchNorm's")
        arrays = _Arrays()
        self.weight = None if weight is None else numpy.ascontiguousarray(weight)
        self.raw = _Branch(kind=1 if weight is not None else 2)
        if weight is not None:
            axes = min(max(self.weight.ndim - 2, 0), 3)
            self.raw.linear = arrays.conv(self.weight, bias, groups)
            for name, value in (("strides", stride), ("dilations", dilation), ("pads_begin", padding),
                                ("pads_end", padding)):
                values = [value] * axes if isinstance(value, int) else list(value)
                if len(values) != axes:
                    raise _invalid(f"{name} has {len(values)} numbers, but the kernel has {axes} axes")
                setattr(self.raw, name, (c_int64 * 3)(*values))
        if running_mean is not None:
            self._batch_norm = arrays.batch_norm(running_mean, running_var, bn_weight, bn_bias, eps)
            self.raw.after, self.raw.after_count = ctypes.pointer(self._batch_norm), 1
        self._arrays = arrays


def fold_branches(branches):
    """The weight and bias of one convolution that computes the sum of all branches, and which branch's stride, dilation and
    padding it has: that of the largest kernel, whose type the new NumPy arrays are of. In f64, rounded once."""
    import numpy

    convs = [branch.weight for branch in branches if branch.weight is not None]
    like = max(convs, key=lambda weight: weight.size, default=numpy.empty((0, 0, 0), numpy.float32))
    folded, folded_bias, largest = numpy.empty_like(like), numpy.empty(like.shape[0], like.dtype), c_uint64()
    raw = (_Branch * max(len(branches), 1))(*(branch.raw for branch in branches))
    dtype = _code(_DTYPES, str(like.dtype), "weight")
    _check(load().wn_fold_branches(raw, len(branches), dtype, folded.ctypes.data, folded.size, folded_bias.ctypes.data,
                                   folded_bias.size, byref(largest), None))
    return folded, folded_bias, largest.value


def fold_safetensors(path, output=None, *, eps=None, pairs=None, only=(), skip=(), dtype=None, accept_names=False,
                     verify=False):
    """Folds the BatchNorms of a state dict, and returns for each what became of it: ``node``, ``code`` (``folded``, or why
    not), ``sentence``, and more. Without ``output`` nothing is written; with it the pairs must be given (``pairs``: the JSON
    text of scripts/export_pairs.py), or those that were found by names be accepted. ``eps`` is a number, or pairs of a
    pattern of names and a number; it is never guessed."""
    eps = [] if eps is None else [("*", eps)] if isinstance(eps, (int, float)) else list(eps)
    raw = (_FoldEps * max(len(eps), 1))(*((pattern.encode(), value) for pattern, value in eps))
    options = _FoldSafetensorsOptions(
        None if pairs is None else pairs.encode(), raw, len(eps), *_texts(only), *_texts(skip), _fold_type(dtype),
        accept_names, verify)
    return _fold_model(load().wn_fold_safetensors, path, output, options)


def fold_onnx(path, output=None, *, only=(), skip=(), dtype=None, forward="exact", merge_branches=False,
              duplicate_shared=False, freeze_inputs=False, tidy=False, verify=0, tolerance=0.0):
    """Folds what can be folded of an ONNX model, and returns for each per-channel map what became of it, as
    ``fold_safetensors`` does. The rest is as ``warpnorm fold`` has it; ``verify`` is on how many random inputs."""
    options = _FoldOptions(
        _code({"exact": 0, "scale": 1, "off": 2}, forward, "forward"), merge_branches, duplicate_shared, freeze_inputs,
        tidy, _fold_type(dtype), *_texts(only), *_texts(skip), verify, tolerance)
    return _fold_model(load().wn_fold_onnx, path, output, options)


def _fold_model(function, path, output, options):
    rows = []

    def tell(_, row):
        row = row.contents
        row = {name: getattr(row, name) for name, _ in _FoldRow._fields_}
        rows.append({name: value.decode() if isinstance(value, bytes) else value for name, value in row.items()})

    output = None if output is None else os.fsencode(output)
    _check(function(os.fsencode(path), output, byref(options), _FoldRowFunction(tell), None, None))
    return rows


def _fold_type(dtype):
    return _code({None: _NONE, "float32": _F32, "float16": _F16, "bfloat16": _BF16}, dtype, "dtype")


def _texts(patterns):
    patterns = [pattern.encode() for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    return (c_char_p * max(len(patterns), 1))(*patterns), len(patterns)
