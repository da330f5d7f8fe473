//! Result codes of the driver.

use std::ffi::CStr;

use torsh_ptx_sim::FaultKind;

/// A `CUresult`; zero is success.
pub type Code = i32;

macro_rules! codes {
    ($($name:ident = $n:literal, $text:literal;)*) => {
        $(#[doc = $text] pub const $name: Code = $n;)*

        /// Name and description of a code.
        pub fn describe(code: Code) -> Option<(&'static CStr, &'static CStr)> {
            const fn c(s: &'static str) -> &'static CStr {
                match CStr::from_bytes_with_nul(s.as_bytes()) {
                    Ok(s) => s,
                    Err(_) => c"",
                }
            }
            Some(match code {
                0 => (c"CUDA_SUCCESS", c"no error"),
                $($n => (c(concat!("CUDA_ERROR_", stringify!($name), "\0")), c(concat!($text, "\0"))),)*
                _ => return None,
            })
        }
    };
}

codes! {
    INVALID_VALUE = 1, "invalid argument";
    OUT_OF_MEMORY = 2, "out of memory";
    NOT_INITIALIZED = 3, "initialization error";
    NO_DEVICE = 100, "no CUDA-capable device is detected";
    INVALID_DEVICE = 101, "invalid device ordinal";
    INVALID_IMAGE = 200, "device kernel image is invalid";
    INVALID_CONTEXT = 201, "invalid device context";
    NO_BINARY_FOR_GPU = 209, "no kernel image is available for execution on the device";
    INVALID_PTX = 218, "a PTX JIT compilation failed";
    FILE_NOT_FOUND = 301, "file not found";
    INVALID_HANDLE = 400, "invalid resource handle";
    NOT_FOUND = 500, "named symbol not found";
    NOT_READY = 600, "device not ready";
    ILLEGAL_ADDRESS = 700, "an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES = 701, "too many resources requested for launch";
    LAUNCH_TIMEOUT = 702, "the launch timed out and was terminated";
    ILLEGAL_INSTRUCTION = 715, "an illegal instruction was encountered";
    MISALIGNED_ADDRESS = 716, "misaligned address";
    LAUNCH_FAILED = 719, "unspecified launch failure";
    NOT_SUPPORTED = 801, "operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900, "operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, "operation failed due to a previous error during capture";
    STREAM_CAPTURE_MERGE = 902, "operation would result in a merge of separate capture sequences";
    STREAM_CAPTURE_UNMATCHED = 903, "capture was not ended in the same stream as it began";
    STREAM_CAPTURE_UNJOINED = 904, "capturing stream has unjoined work";
    STREAM_CAPTURE_ISOLATION = 905, "dependency created on uncaptured work in another stream";
    STREAM_CAPTURE_IMPLICIT = 906, "operation would make the legacy stream depend on a capturing blocking stream";
    CAPTURED_EVENT = 907, "operation not permitted on an event last recorded in a capturing stream";
    STREAM_CAPTURE_WRONG_THREAD = 908, "attempt to terminate a thread-local capture sequence from another thread";
    UNKNOWN = 999, "unknown error";
}

/// The code that a fault of a kernel is reported with.
pub fn of_fault(kind: FaultKind) -> Code {
    match kind {
        FaultKind::Launch | FaultKind::SharedLimit => INVALID_VALUE,
        FaultKind::OutOfBounds | FaultKind::UseAfterFree | FaultKind::ReadOnly => ILLEGAL_ADDRESS,
        FaultKind::Misaligned => MISALIGNED_ADDRESS,
        FaultKind::Budget => LAUNCH_TIMEOUT,
        FaultKind::Uninitialised
        | FaultKind::Race
        | FaultKind::NonCoherent
        | FaultKind::AsyncPending
        | FaultKind::DivergentBarrier
        | FaultKind::InactiveLane
        | FaultKind::Trap => LAUNCH_FAILED,
    }
}
