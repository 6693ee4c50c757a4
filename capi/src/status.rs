//! Statuses, their names, and the thread's last error.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use warpnorm_rs::fold::FoldError;

pub(crate) use crate::types::wn_status;

/// Why a function refuses: its status and its sentence.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: wn_status,
    pub message: String,
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(crate) fn null(argument: &str) -> Self {
        Self { status: wn_status::Null, message: format!("`{argument}` is a null pointer") }
    }

    pub(crate) fn value(message: impl Into<String>) -> Self {
        Self { status: wn_status::InvalidValue, message: message.into() }
    }
}

impl From<warpnorm_rs::Error> for Refusal {
    fn from(error: warpnorm_rs::Error) -> Self {
        use warpnorm_rs::Error as E;
        let status = match &error {
            E::Rank { .. } => wn_status::Rank,
            E::ShapeOverflow { .. } => wn_status::ShapeOverflow,
            E::Shape { .. } => wn_status::Shape,
            E::Empty { .. } => wn_status::Empty,
            E::Groups { .. } => wn_status::Groups,
            E::Eps { .. } => wn_status::Eps,
            E::Momentum { .. } => wn_status::Momentum,
            E::Missing { .. } => wn_status::Missing,
            E::Unexpected { .. } => wn_status::Unexpected,
            E::Length { .. } => wn_status::Length,
            E::ElementType { .. } => wn_status::ElementType,
            E::RowStride { .. } => wn_status::RowStride,
            E::Misaligned { .. } => wn_status::Misaligned,
            E::Overlap { .. } => wn_status::Overlap,
            E::Workspace { .. } => wn_status::Workspace,
            E::OneValue { .. } => wn_status::OneValue,
            E::TooLarge { .. } => wn_status::TooLarge,
            E::NoDriver => wn_status::NoDriver,
            E::NoDevice { .. } => wn_status::NoDevice,
            E::OldDriver { .. } => wn_status::OldDriver,
            E::NoKernels { .. } => wn_status::NoKernels,
            E::Architecture { .. } => wn_status::Architecture,
            E::NoContext => wn_status::NoContext,
            E::Context => wn_status::Context,
            E::Driver { .. } => wn_status::Driver,
            _ => wn_status::Internal,
        };
        Self { status, message: error.to_string() }
    }
}

impl From<FoldError> for Refusal {
    fn from(error: FoldError) -> Self {
        Self { status: wn_status::from(&error), message: error.to_string() }
    }
}

impl From<&FoldError> for wn_status {
    fn from(error: &FoldError) -> Self {
        use FoldError as E;
        match error {
            E::LengthMismatch { .. } => Self::FoldLengthMismatch,
            E::ChannelMismatch { .. } => Self::FoldChannelMismatch,
            E::CompositionMismatch { .. } => Self::FoldCompositionMismatch,
            E::WeightRank { .. } => Self::FoldWeightRank,
            E::WeightLength { .. } => Self::FoldWeightLength,
            E::ShapeOverflow { .. } => Self::FoldShapeOverflow,
            E::EmptyWeight { .. } => Self::FoldEmptyWeight,
            E::ZeroGroups => Self::FoldZeroGroups,
            E::IndivisibleGroups { .. } => Self::FoldIndivisibleGroups,
            E::InvalidEps { .. } => Self::FoldInvalidEps,
            E::InvalidVariance { .. } => Self::FoldInvalidVariance,
            E::ZeroVariance { .. } => Self::FoldZeroVariance,
            E::NonFinite { .. } => Self::FoldNonFinite,
            E::Overflow { .. } => Self::FoldOverflow,
            E::PaddedShift { .. } => Self::FoldPaddedShift,
            E::TransposedShift { .. } => Self::FoldTransposedShift,
            E::Branch { error, .. } => Self::from(&**error),
            E::NothingToMerge { .. } => Self::FoldNothingToMerge,
            E::NotAConvolution { .. } => Self::FoldNotAConvolution,
            E::UnequalBranches { .. } => Self::FoldUnequalBranches,
            E::IdentityChannels { .. } => Self::FoldIdentityChannels,
            E::ZeroStep { .. } => Self::FoldZeroStep,
            E::UnequalStrides { .. } => Self::FoldUnequalStrides,
            E::KernelOutside { .. } => Self::FoldKernelOutside,
            _ => Self::Internal,
        }
    }
}

thread_local! {
    /// Empty where the thread's last call succeeded.
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    let bytes = message.bytes().filter(|&byte| byte != 0).collect::<Vec<_>>();
    // At a thread's end there may be nowhere to put it.
    let _ = LAST.try_with(|last| *last.borrow_mut() = CString::new(bytes).unwrap_or_default());
}

/// The body of every function: what it refuses becomes a status and a sentence, and so does a panic.
pub(crate) fn guarded(body: impl FnOnce() -> Result<()>) -> wn_status {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => wn_status::Ok,
        Ok(Err(Refusal { status, message })) => {
            remember(&message);
            status
        }
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            remember(&format!("a fault of warpnorm: {}", text.as_deref().unwrap_or("a panic without a message")));
            wn_status::Internal
        }
    }
}

/// The sentence that belongs to the last status other than `WN_STATUS_OK` that a function returned to this thread. Valid
/// until the thread's next call into this library; empty if there was none.
#[unsafe(no_mangle)]
pub extern "C" fn wn_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// A status as its name, `WN_STATUS_OK` and so on; for a number that is none, `WN_STATUS_UNKNOWN`.
#[unsafe(no_mangle)]
pub extern "C" fn wn_status_name(status: i32) -> *const c_char {
    let found = NAMES.iter().find(|(known, _)| *known as i32 == status);
    found.map_or(c"WN_STATUS_UNKNOWN", |(_, name)| name).as_ptr()
}

/// The library's version, as `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn wn_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

macro_rules! names {
    ($($status:ident $name:literal)*) => {
        const NAMES: &[(wn_status, &CStr)] = &[$((wn_status::$status, $name)),*];
        // A status without a name does not compile.
        const _: fn(wn_status) = |status| match status { $(wn_status::$status => {})* };
    };
}

names! {
    Ok c"WN_STATUS_OK"
    Null c"WN_STATUS_NULL"
    InvalidValue c"WN_STATUS_INVALID_VALUE"
    Rank c"WN_STATUS_RANK"
    ShapeOverflow c"WN_STATUS_SHAPE_OVERFLOW"
    Shape c"WN_STATUS_SHAPE"
    Empty c"WN_STATUS_EMPTY"
    Groups c"WN_STATUS_GROUPS"
    Eps c"WN_STATUS_EPS"
    Momentum c"WN_STATUS_MOMENTUM"
    Missing c"WN_STATUS_MISSING"
    Unexpected c"WN_STATUS_UNEXPECTED"
    ElementType c"WN_STATUS_ELEMENT_TYPE"
    RowStride c"WN_STATUS_ROW_STRIDE"
    Misaligned c"WN_STATUS_MISALIGNED"
    Overlap c"WN_STATUS_OVERLAP"
    Workspace c"WN_STATUS_WORKSPACE"
    OneValue c"WN_STATUS_ONE_VALUE"
    TooLarge c"WN_STATUS_TOO_LARGE"
    Length c"WN_STATUS_LENGTH"
    NoDriver c"WN_STATUS_NO_DRIVER"
    NoDevice c"WN_STATUS_NO_DEVICE"
    OldDriver c"WN_STATUS_OLD_DRIVER"
    NoKernels c"WN_STATUS_NO_KERNELS"
    Architecture c"WN_STATUS_ARCHITECTURE"
    NoContext c"WN_STATUS_NO_CONTEXT"
    Context c"WN_STATUS_CONTEXT"
    Driver c"WN_STATUS_DRIVER"
    FoldLengthMismatch c"WN_STATUS_FOLD_LENGTH_MISMATCH"
    FoldChannelMismatch c"WN_STATUS_FOLD_CHANNEL_MISMATCH"
    FoldCompositionMismatch c"WN_STATUS_FOLD_COMPOSITION_MISMATCH"
    FoldWeightRank c"WN_STATUS_FOLD_WEIGHT_RANK"
    FoldWeightLength c"WN_STATUS_FOLD_WEIGHT_LENGTH"
    FoldShapeOverflow c"WN_STATUS_FOLD_SHAPE_OVERFLOW"
    FoldEmptyWeight c"WN_STATUS_FOLD_EMPTY_WEIGHT"
    FoldZeroGroups c"WN_STATUS_FOLD_ZERO_GROUPS"
    FoldIndivisibleGroups c"WN_STATUS_FOLD_INDIVISIBLE_GROUPS"
    FoldInvalidEps c"WN_STATUS_FOLD_INVALID_EPS"
    FoldInvalidVariance c"WN_STATUS_FOLD_INVALID_VARIANCE"
    FoldZeroVariance c"WN_STATUS_FOLD_ZERO_VARIANCE"
    FoldNonFinite c"WN_STATUS_FOLD_NON_FINITE"
    FoldOverflow c"WN_STATUS_FOLD_OVERFLOW"
    FoldPaddedShift c"WN_STATUS_FOLD_PADDED_SHIFT"
    FoldTransposedShift c"WN_STATUS_FOLD_TRANSPOSED_SHIFT"
    ModelIo c"WN_STATUS_MODEL_IO"
    ModelMalformed c"WN_STATUS_MODEL_MALFORMED"
    ModelUnsupported c"WN_STATUS_MODEL_UNSUPPORTED"
    ModelOutside c"WN_STATUS_MODEL_OUTSIDE"
    ModelTensorLength c"WN_STATUS_MODEL_TENSOR_LENGTH"
    NotVerified c"WN_STATUS_NOT_VERIFIED"
    NotAccepted c"WN_STATUS_NOT_ACCEPTED"
    ModelUnconvertible c"WN_STATUS_MODEL_UNCONVERTIBLE"
    FoldNothingToMerge c"WN_STATUS_FOLD_NOTHING_TO_MERGE"
    FoldNotAConvolution c"WN_STATUS_FOLD_NOT_A_CONVOLUTION"
    FoldUnequalBranches c"WN_STATUS_FOLD_UNEQUAL_BRANCHES"
    FoldIdentityChannels c"WN_STATUS_FOLD_IDENTITY_CHANNELS"
    FoldZeroStep c"WN_STATUS_FOLD_ZERO_STEP"
    FoldUnequalStrides c"WN_STATUS_FOLD_UNEQUAL_STRIDES"
    FoldKernelOutside c"WN_STATUS_FOLD_KERNEL_OUTSIDE"
    Internal c"WN_STATUS_INTERNAL"
}
