//! The one place where the engine's errors become exceptions.

use std::io::{Error, ErrorKind};

use multigil::error::{AttachError, BarrierError, GetError, OutOfMemory, OwnerDied, PutError, RegionError};
use pyo3::ffi;

use crate::py::{Raised, Result, raise};
use crate::state::State;

/// Raises MemoryError with both numbers.
#[cold]
pub(crate) unsafe fn out_of_memory<T>(error: OutOfMemory) -> Result<T> {
    raise(ffi::PyExc_MemoryError, &error.to_string())
}

#[cold]
unsafe fn bare<T>(class: *mut ffi::PyObject) -> Result<T> {
    ffi::PyErr_SetNone(class);
    Err(Raised)
}

/// Raises what a put failed with. Interruptions are [`crate::wait`]'s business and never get here.
#[cold]
pub(crate) unsafe fn put<T>(state: &State, error: PutError) -> Result<T> {
    match error {
        PutError::Full | PutError::Interrupted => bare(state.full()?.as_ptr()),
        PutError::ShutDown => bare(state.shut_down()?.as_ptr()),
        PutError::OutOfMemory(error) => out_of_memory(error),
        PutError::Corrupt => corrupt(state, &PutError::Corrupt.to_string()),
    }
}

/// Raises what a get failed with. Large messages are [`crate::queue`]'s business and never get here.
#[cold]
pub(crate) unsafe fn get<T>(state: &State, error: GetError) -> Result<T> {
    match error {
        GetError::Empty | GetError::Large(_) | GetError::Peeked | GetError::Interrupted => {
            bare(state.object(&state.objects.empty)?.as_ptr())
        }
        GetError::OutOfMemory(error) => out_of_memory(error),
        GetError::Corrupt => corrupt(state, &GetError::Corrupt.to_string()),
        GetError::ShutDown => bare(state.shut_down()?.as_ptr()),
    }
}

/// Raises why somebody did not pass a barrier. Interruptions are [`crate::wait`]'s business and never get here.
#[cold]
pub(crate) unsafe fn barrier<T>(state: &State, error: BarrierError) -> Result<T> {
    match error {
        BarrierError::Broken | BarrierError::TimedOut | BarrierError::Interrupted => {
            bare(state.broken_barrier_error()?.as_ptr())
        }
        BarrierError::OutOfMemory(error) => out_of_memory(error),
    }
}

/// Raises that a lock's owner died.
#[cold]
pub(crate) unsafe fn owner_died<T>(state: &State, died: OwnerDied) -> Result<T> {
    raise(state.object(&state.objects.owner_died)?.as_ptr(), &died.to_string())
}

/// Raises why a region was not made or opened.
#[cold]
pub(crate) unsafe fn region<T>(error: RegionError) -> Result<T> {
    let class = match &error {
        RegionError::OutOfMemory(error) => return out_of_memory(*error),
        RegionError::System(error) => return system(error),
        RegionError::Foreign(_) => ffi::PyExc_PermissionError,
        RegionError::TooManyPeers => ffi::PyExc_RuntimeError,
        RegionError::NoRegion(_) | RegionError::Version { .. } => ffi::PyExc_ValueError,
    };
    raise(class, &error.to_string())
}

/// Raises what the operating system said.
#[cold]
pub(crate) unsafe fn system<T>(error: &Error) -> Result<T> {
    *libc::__errno_location() = error.raw_os_error().unwrap_or_default();
    ffi::PyErr_SetFromErrno(ffi::PyExc_OSError);
    Err(Raised)
}

/// The same of one that has or gets a name.
#[cold]
pub(crate) unsafe fn named_region<T>(state: &State, error: RegionError) -> Result<T> {
    match error {
        RegionError::NoRegion(_) => raise(state.object(&state.objects.region_corrupt)?.as_ptr(), &error.to_string()),
        // What is full is the file system.
        RegionError::OutOfMemory(_) => system(&Error::from_raw_os_error(libc::ENOSPC)),
        error => region(error),
    }
}

/// Raises why the region of an object that is being unpickled was not opened.
#[cold]
pub(crate) unsafe fn gone<T>(state: &State, error: RegionError) -> Result<T> {
    let is_gone = match &error {
        RegionError::NoRegion(_) => true,
        // Of a process that is gone, or whose number is another user's by now.
        RegionError::System(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied),
        _ => false,
    };
    if !is_gone {
        return region(error);
    }
    let text = format!("the region of the object is gone, or can't be reached from here: {error}");
    raise(state.object(&state.objects.stale_handle)?.as_ptr(), &text)
}

/// Raises why an id led nowhere.
#[cold]
pub(crate) unsafe fn attach<T>(state: &State, error: AttachError) -> Result<T> {
    let class = match error {
        AttachError::OutOfMemory(error) => return out_of_memory(error),
        AttachError::OtherRegion | AttachError::Gone => &state.objects.stale_handle,
        AttachError::Corrupt => &state.objects.region_corrupt,
    };
    raise(state.object(class)?.as_ptr(), &error.to_string())
}

/// Raises that a message is no message.
#[cold]
pub(crate) unsafe fn corrupt<T>(state: &State, what: &str) -> Result<T> {
    raise(state.object(&state.objects.region_corrupt)?.as_ptr(), what)
}
