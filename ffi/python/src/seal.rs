//! Seals: in a region with a key, each message ends with a keyed hash of what it is, and one without the right hash is
//! refused.
//!
//! The hash covers the kind, the payload, the objects that the message names, and the queue: who has no key can neither
//! make a message nor change one, nor move it to another queue. One who can write to the region's memory can still put
//! the same message into its queue again, lose messages, and change the order that a queue keeps.
//!
//! What is hashed and decoded is a copy: shared memory may be written to at any time.

use core::ffi::c_char;
use std::collections::BTreeMap;

use multigil::layout::{ObjectId, ObjectKind};
use multigil::object::{Handle, Message, Region, SharedState};
use parking_lot::Mutex;
use pyo3::ffi;

use crate::codec;
use crate::errors;
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;

/// In a message's kind: there is a seal behind the payload.
pub(crate) const SEALED: u8 = 0x80;

/// Bytes of a seal.
const SEAL_BYTES: usize = 16;

/// The keys that this process has, by the regions' numbers.
static KEYS: Mutex<BTreeMap<u64, [u8; 32]>> = Mutex::new(BTreeMap::new());

fn key_of(region: &Region) -> Option<[u8; 32]> {
    KEYS.lock().get(&region.number()).copied()
}

/// `set_key(number, key)`
pub(crate) unsafe extern "C" fn set_key(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [number, key] = Arguments::new(values, count, names).parse("set_key", [c"number", c"key"], 2)?;
        let visit = crate::region::visit(crate::state_of_module(module), number)?;
        let (mut start, mut length): (*mut c_char, ffi::Py_ssize_t) = (core::ptr::null_mut(), 0);
        py::check(ffi::PyBytes_AsStringAndSize(key, &raw mut start, &raw mut length))?;
        if length == 0 {
            return raise(ffi::PyExc_ValueError, "a key has at least one byte");
        }
        let key = blake3::derive_key("multigil 2026-11 messages of a region", bytes(start.cast(), length as usize));
        KEYS.lock().insert(visit.place.region.number(), key);
        Ok(())
    })
}

unsafe fn bytes<'a>(start: *const u8, length: usize) -> &'a [u8] {
    core::slice::from_raw_parts(start, length)
}

/// What the seal of a message of a queue is.
fn seal_of(
    key: &[u8; 32],
    queue: ObjectId,
    kind: u8,
    pins: &[(ObjectId, ObjectKind)],
    payload: &[u8],
) -> [u8; SEAL_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&[kind]);
    for id in core::iter::once(&queue).chain(pins.iter().map(|(id, _)| id)) {
        hasher.update(&id.index.to_le_bytes()).update(&id.generation.to_le_bytes());
    }
    // How many they are, so that none can pass for the payload's beginning.
    hasher.update(&(pins.len() as u64).to_le_bytes()).update(payload);
    let mut seal = [0; SEAL_BYTES];
    hasher.finalize_xof().fill(&mut seal);
    seal
}

fn payload_of(message: &Message<'_>) -> core::result::Result<Vec<u8>, Raised> {
    let mut payload = Vec::new();
    if payload.try_reserve_exact(message.length()).is_err() {
        // SAFETY: who reads a message is attached.
        unsafe { ffi::PyErr_NoMemory() };
        return Err(Raised);
    }
    payload.resize(message.length(), 0);
    message.read(0, &mut payload);
    Ok(payload)
}

/// Seals a message for a queue, if its region has a key.
pub(crate) unsafe fn seal<T: SharedState>(queue: &Handle<'static, T>, message: &mut Message<'_>) -> Result<()> {
    let Some(key) = key_of(queue.region()) else { return Ok(()) };
    let (payload, pins) = (payload_of(message)?, message.pins());
    let seal = seal_of(&key, queue.id(), message.kind(), &pins, &payload);
    let mut sealed = Message::new(message.region(), queue.owner());
    if let Err(error) = sealed.allocate(message.kind() | SEALED, payload.len() + SEAL_BYTES, &pins) {
        return errors::out_of_memory(error);
    }
    sealed.write(0, &payload);
    sealed.write(payload.len(), &seal);
    core::mem::swap(message, &mut sealed); // the references of the one before go when the new one has its own
    Ok(())
}

/// Makes an object of a message of a queue in a region that may have a key.
pub(crate) unsafe fn decode<T: SharedState>(
    state: &'static State,
    queue: &Handle<'static, T>,
    message: &Message<'_>,
) -> Result<Owned> {
    let kind = message.kind();
    let key = match (key_of(queue.region()), kind & SEALED != 0) {
        (None, false) => return codec::decode_as_it_is(state, message),
        (None, true) => return refuse(state, "the region's messages are sealed, and this process has not its key"),
        (Some(_), false) => return refuse(state, "a message has no seal, and the region has a key"),
        (Some(key), true) => key,
    };
    let payload = payload_of(message)?;
    let Some((payload, seal)) = payload.split_last_chunk::<SEAL_BYTES>() else {
        return refuse(state, "a message is too short for its seal");
    };
    let right = seal_of(&key, queue.id(), kind & !SEALED, &message.pins(), payload);
    // Compares in the same time whatever is different.
    if blake3::Hash::from_bytes(padded(right)) != blake3::Hash::from_bytes(padded(*seal)) {
        return refuse(state, "a message's seal is wrong: it was forged or changed, or sealed with another key");
    }
    codec::decode_payload(state, kind & !SEALED, payload.as_ptr(), payload.len())
}

fn padded(seal: [u8; SEAL_BYTES]) -> [u8; 32] {
    let mut padded = [0; 32];
    padded[..SEAL_BYTES].copy_from_slice(&seal);
    padded
}

#[cold]
unsafe fn refuse<T>(state: &State, text: &str) -> Result<T> {
    raise(state.object(&state.objects.authentication_error)?.as_ptr(), text)
}
