//! Objects to messages and back.
//!
//! `None`, `bool`, `int` of 64 bits, `float`, `bytes` and `str` go as they are. Everything else is pickled, protocol 5.
//! The pickler writes to a [`Writer`], which keeps what it is given (a frame of at most 64 KiB, or a large object's own
//! buffer) until the size is known, and then each piece is copied once, to its place in shared memory. Unpickling reads
//! straight out of shared memory.
//!
//! A *numbered* message begins with a number and its object's kind, a word each. So whoever gets it knows whose it is
//! although the object can't be unpickled, and before it is.

use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;

use multigil::layout::{ObjectId, ObjectKind};
use multigil::object::{Handle, Message, SharedState};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::errors;
use crate::handle::Pins;
use crate::py::{self, Owned, Raised, Result, check};
use crate::seal;
use crate::state::State;

/// What a message's kind byte says. Part of the format of shared memory.
mod kind {
    pub(super) const NONE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const TRUE: u8 = 3;
    pub(super) const INTEGER: u8 = 4;
    pub(super) const FLOAT: u8 = 5;
    pub(super) const BYTES: u8 = 6;
    /// `str` with 1, 2 or 4 bytes a character, as CPython stores it (PEP 393).
    pub(super) const STRING_1: u8 = 7;
    pub(super) const STRING_2: u8 = 8;
    pub(super) const STRING_4: u8 = 9;
    pub(super) const PICKLE: u8 = 10;
    pub(super) const NUMBERED: u8 = 11;
}

/// Bytes before the object of a numbered message.
const NUMBER_BYTES: usize = 16;

/// A message that is being made, of an object or of a number and an object.
struct Form<'m, 'r> {
    message: &'m mut Message<'r>,
    number: Option<u64>,
}

impl Form<'_, '_> {
    #[inline(always)]
    unsafe fn set_word(&mut self, kind: u8, word: u64) -> Result<()> {
        if self.number.is_some() {
            return self.set_bytes(kind, &word.to_ne_bytes());
        }
        self.message.set_word(kind, word);
        Ok(())
    }

    #[inline(always)]
    unsafe fn set_bytes(&mut self, kind: u8, bytes: &[u8]) -> Result<()> {
        if self.number.is_none() {
            return self.message.set_bytes(kind, bytes).or_else(|error| errors::out_of_memory(error));
        }
        let start = self.allocate(kind, bytes.len(), &[])?;
        self.message.write(start, bytes);
        Ok(())
    }

    /// Makes room for the object, and tells where that begins.
    #[inline(always)]
    unsafe fn allocate(&mut self, kind: u8, length: usize, pins: &[(ObjectId, ObjectKind)]) -> Result<usize> {
        let (start, outer) = if self.number.is_some() { (NUMBER_BYTES, kind::NUMBERED) } else { (0, kind) };
        if let Err(error) = self.message.allocate(outer, start + length, pins) {
            return errors::out_of_memory(error);
        }
        if let Some(number) = self.number {
            self.message.write(0, &number.to_ne_bytes());
            self.message.write(8, &u64::from(kind).to_ne_bytes());
        }
        Ok(start)
    }
}

/// Makes `message` one of an object, for a queue.
#[inline(always)]
pub(crate) unsafe fn encode<T: SharedState>(
    state: &'static State,
    queue: &Handle<'static, T>,
    object: *mut ffi::PyObject,
    message: &mut Message<'_>,
) -> Result<()> {
    encode_as_it_is(state, object, &mut Form { message, number: None })?;
    // The process's own region has no key.
    if state.is_home(queue.region()) { Ok(()) } else { seal::seal(queue, message) }
}

/// Makes `message` one of a number and an object, for a queue of the process's own region.
#[inline(always)]
pub(crate) unsafe fn encode_numbered(
    state: &'static State,
    number: u64,
    object: *mut ffi::PyObject,
    message: &mut Message<'_>,
) -> Result<()> {
    encode_as_it_is(state, object, &mut Form { message, number: Some(number) })
}

/// Puts a numbered message of None into a queue of the process's own region, which needs no Python.
pub(crate) fn put_number(queue: &Handle<'static, Queue>, number: u64) {
    let mut message = Message::new(queue.region(), queue.owner());
    let mut payload = [0; NUMBER_BYTES + 8];
    payload[..8].copy_from_slice(&number.to_ne_bytes());
    payload[8..16].copy_from_slice(&u64::from(kind::NONE).to_ne_bytes());
    // So few bytes are in the slot itself, for which there always is memory.
    if message.set_bytes(kind::NUMBERED, &payload).is_ok() {
        let _ = queue.put(&mut message, queue.region(), queue.owner(), None);
    }
}

#[inline(always)]
unsafe fn encode_as_it_is(state: &'static State, object: *mut ffi::PyObject, form: &mut Form<'_, '_>) -> Result<()> {
    let class = ffi::Py_TYPE(object);
    if class == &raw mut ffi::PyLong_Type {
        let mut overflow = 0;
        let value = ffi::PyLong_AsLongLongAndOverflow(object, &raw mut overflow);
        if overflow == 0 {
            return form.set_word(kind::INTEGER, value as u64);
        }
    } else if class == &raw mut ffi::PyBytes_Type {
        let (start, length) = (ffi::PyBytes_AS_STRING(object), ffi::PyBytes_Size(object));
        return encode_bytes(kind::BYTES, start.cast(), length as usize, form);
    } else if class == &raw mut ffi::PyUnicode_Type {
        let (unit, kind) = match ffi::PyUnicode_KIND(object) {
            ffi::PyUnicode_1BYTE_KIND => (1, kind::STRING_1),
            ffi::PyUnicode_2BYTE_KIND => (2, kind::STRING_2),
            _ => (4, kind::STRING_4),
        };
        let length = ffi::PyUnicode_GET_LENGTH(object) as usize * unit;
        return encode_bytes(kind, ffi::PyUnicode_DATA(object).cast(), length, form);
    } else if class == &raw mut ffi::PyFloat_Type {
        return form.set_word(kind::FLOAT, ffi::PyFloat_AS_DOUBLE(object).to_bits());
    } else if object == ffi::Py_None() {
        return form.set_word(kind::NONE, 0);
    } else if object == ffi::Py_True() {
        return form.set_word(kind::TRUE, 0);
    } else if object == ffi::Py_False() {
        return form.set_word(kind::FALSE, 0);
    }
    pickle(state, object, form)
}

#[inline(always)]
unsafe fn encode_bytes(kind: u8, start: *const u8, length: usize, form: &mut Form<'_, '_>) -> Result<()> {
    // Nobody changes an immutable object's bytes, and the caller holds it.
    form.set_bytes(kind, core::slice::from_raw_parts(start, length))
}

/// Whether making an object of the message may run any code of Python's.
pub(crate) fn runs_python(message: &Message<'_>) -> bool {
    matches!(message.kind() & !seal::SEALED, kind::PICKLE | kind::NUMBERED)
}

/// Makes an object of a message of a queue.
#[inline(always)]
pub(crate) unsafe fn decode<T: SharedState>(
    state: &'static State,
    queue: &Handle<'static, T>,
    message: &Message<'_>,
) -> Result<Owned> {
    if state.is_home(queue.region()) { decode_as_it_is(state, message) } else { seal::decode(state, queue, message) }
}

/// Makes an object of a message without a seal.
#[inline(always)]
pub(crate) unsafe fn decode_as_it_is(state: &'static State, message: &Message<'_>) -> Result<Owned> {
    match message.kind() {
        kind::INTEGER => Owned::from_raw(ffi::PyLong_FromLongLong(message.first_word() as i64)),
        kind::FLOAT => Owned::from_raw(ffi::PyFloat_FromDouble(f64::from_bits(message.first_word()))),
        kind => decode_payload(state, kind, message.as_ptr(), message.length()),
    }
}

/// Makes an object of a payload.
#[inline(always)]
pub(crate) unsafe fn decode_payload(state: &'static State, kind: u8, start: *const u8, length: usize) -> Result<Owned> {
    let word = || start.cast::<u64>().read_unaligned();
    let length = length as ffi::Py_ssize_t;
    match kind {
        kind::NONE => Ok(Owned::none()),
        kind::TRUE => Ok(Owned::bool(true)),
        kind::FALSE => Ok(Owned::bool(false)),
        _ if start.is_null() => errors::corrupt(state, "a message names memory outside of its region"),
        kind::INTEGER if length == 8 => Owned::from_raw(ffi::PyLong_FromLongLong(word() as i64)),
        kind::FLOAT if length == 8 => Owned::from_raw(ffi::PyFloat_FromDouble(f64::from_bits(word()))),
        kind::BYTES => Owned::from_raw(ffi::PyBytes_FromStringAndSize(start.cast(), length)),
        kind @ (kind::STRING_1 | kind::STRING_2 | kind::STRING_4) => {
            let unit = 1 << (kind - kind::STRING_1);
            // The function looks at every character, so that no bytes make an impossible string.
            Owned::from_raw(ffi::PyUnicode_FromKindAndData(unit, start.cast(), length / unit as ffi::Py_ssize_t))
        }
        kind::PICKLE => unpickle(state, start, length),
        kind::NUMBERED if length as usize >= NUMBER_BYTES => decode_numbered(state, start, length as usize),
        unknown => errors::corrupt(state, &format!("a message is of unknown kind {unknown}")),
    }
}

/// The number of a message; None if it is not numbered.
pub(crate) unsafe fn number(message: &Message<'_>) -> Option<u64> {
    let start = message.as_ptr();
    (message.kind() == kind::NUMBERED && message.length() >= NUMBER_BYTES && !start.is_null())
        .then(|| start.cast::<u64>().read_unaligned())
}

/// Makes the object of a message that has a number.
#[inline(always)]
pub(crate) unsafe fn decode_object(state: &'static State, message: &Message<'_>) -> Result<Owned> {
    decode_behind_number(state, message.as_ptr(), message.length())
}

#[inline(always)]
unsafe fn decode_behind_number(state: &'static State, start: *const u8, length: usize) -> Result<Owned> {
    let word = start.add(8).cast::<u64>().read_unaligned();
    match u8::try_from(word) {
        Ok(kind) if kind != kind::NUMBERED => {
            decode_payload(state, kind, start.add(NUMBER_BYTES), length - NUMBER_BYTES)
        }
        _ => errors::corrupt(state, &format!("a numbered message is of unknown kind {word}")),
    }
}

/// `(number, object, error)`: an object that can't be unpickled is None, with the error of that. Even with
/// KeyboardInterrupt: who waits for what has this number shall hear of it.
unsafe fn decode_numbered(state: &'static State, start: *const u8, length: usize) -> Result<Owned> {
    let number = Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(start.cast::<u64>().read_unaligned()))?;
    let (object, error) = match decode_behind_number(state, start, length) {
        Ok(object) => (object, Owned::none()),
        Err(Raised) => (Owned::none(), Owned::from_raw(ffi::PyErr_GetRaisedException())?),
    };
    Owned::from_raw(ffi::PyTuple_Pack(3, number.as_ptr(), object.as_ptr(), error.as_ptr()))
}

#[cold]
unsafe fn out_of_buffers<T>() -> Result<T> {
    ffi::PyErr_NoMemory();
    Err(Raised)
}

unsafe fn unpickle(state: &State, start: *const u8, length: ffi::Py_ssize_t) -> Result<Owned> {
    let loads = state.object(&state.objects.loads)?;
    let view = Owned::from_raw(ffi::PyMemoryView_FromMemory(start.cast_mut().cast(), length, ffi::PyBUF_READ))?;
    let result = loads.call(&[view.as_ptr()]);
    if ffi::Py_REFCNT(view.as_ptr()) > 1 {
        // Somebody got hold of the view (a debugger can): it must not outlive the memory.
        let error = ffi::PyErr_GetRaisedException();
        let released = view.attribute(c"release").and_then(|release| release.call(&[]));
        if released.is_err() {
            ffi::PyErr_WriteUnraisable(view.as_ptr());
        }
        ffi::PyErr_SetRaisedException(error);
    }
    result
}

/// A pickler with the file that it writes to.
#[derive(Debug)]
pub(crate) struct Pickler {
    dump: Owned,
    clear_memo: Owned,
    writer: Owned,
}

impl Pickler {
    /// Shows the garbage collector what is held: the interpreter's module could not be freed otherwise.
    pub(crate) unsafe fn traverse(&self, visit: ffi::visitproc, argument: *mut c_void) -> c_int {
        for object in [&self.dump, &self.clear_memo, &self.writer] {
            let status = visit(object.as_ptr(), argument);
            if status != 0 {
                return status;
            }
        }
        0
    }
}

// SAFETY: a pickler stays in its interpreter's state, whose users are attached to that interpreter.
unsafe impl Send for Pickler {}

impl Pickler {
    unsafe fn new(state: &State) -> Result<Pickler> {
        let class = state.object(&state.objects.writer_type)?;
        let allocate = (*class.as_ptr().cast::<ffi::PyTypeObject>()).tp_alloc.unwrap_unchecked(); // every type has it
        let writer = Owned::from_raw(allocate(class.as_ptr().cast(), 0))?;
        (&raw mut (*writer.as_ptr().cast::<Writer>()).pieces).write(Vec::new());
        let protocol = Owned::from_raw(ffi::PyLong_FromLong(5))?;
        let pickler = state.object(&state.objects.pickler)?.call(&[writer.as_ptr(), protocol.as_ptr()])?;
        Ok(Pickler { dump: pickler.attribute(c"dump")?, clear_memo: pickler.attribute(c"clear_memo")?, writer })
    }

    /// Pickles an object; gives the pieces.
    unsafe fn pickle(&self, object: *mut ffi::PyObject) -> Result<Vec<Piece>> {
        let result = self.dump.call(&[object]);
        let error = if result.is_err() { ffi::PyErr_GetRaisedException() } else { null_mut() };
        let pieces = core::mem::take(&mut (*self.writer.as_ptr().cast::<Writer>()).pieces);
        // The memo keeps what was pickled alive.
        let cleared = self.clear_memo.call(&[]);
        if result.is_err() {
            drop(pieces);
            ffi::PyErr_SetRaisedException(error);
            return Err(Raised);
        }
        cleared.map(|_| pieces)
    }
}

/// A piece of a pickle: the buffer of the object that the pickler wrote.
struct Piece(ffi::Py_buffer);

impl Piece {
    fn bytes(&self) -> &[u8] {
        if self.0.len == 0 {
            return &[];
        }
        // SAFETY: the buffer is held, and for the time of a copy nobody else runs in this interpreter; a program that
        // writes to it from a thread without the GIL has the race that it asked for.
        unsafe { core::slice::from_raw_parts(self.0.buf.cast(), self.0.len as usize) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: the buffer was got once, and pieces are dropped attached.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}

/// Pickles an object into a message.
#[cold]
unsafe fn pickle(state: &'static State, object: *mut ffi::PyObject, form: &mut Form<'_, '_>) -> Result<()> {
    let (pieces, pins) = Pins::collect(form.message.region(), || {
        // An object's `__reduce__` may put something itself: then the pickler is in use, and it gets another.
        let idle = state.idle_pickler.lock().take();
        let pickler = idle.map_or_else(|| Pickler::new(state), Ok)?;
        match pickler.pickle(object) {
            Ok(pieces) if !names_main(&pieces) => {
                if pieces.len() == 1 {
                    let other = state.idle_pickler.lock().replace(pickler);
                    drop(other); // without the lock: nobody knows what that runs
                } // otherwise its memo has grown, and clearing that would cost every later message
                Ok(pieces)
            }
            Ok(_) => pickle_by_value(object),
            Err(Raised) => pickle_after_failure(object),
        }
    })?;
    let length = pieces.iter().map(|piece| piece.0.len as usize).sum();
    let mut offset = form.allocate(kind::PICKLE, length, &pins.names())?;
    for piece in &pieces {
        form.message.write(offset, piece.bytes());
        offset += piece.bytes().len();
    }
    Ok(())
}

/// Whether the pickle may refer to `__main__`, which is another module in every interpreter.
///
/// Only frames are searched, which are at most 64 KiB: a piece of its own is a large object's bytes. To be wrong costs
/// time, since pickling by value gives the same object.
fn names_main(pieces: &[Piece]) -> bool {
    const FRAME_BYTES: usize = 128 << 10;
    const NAME: &[u8] = b"__main__";
    pieces.iter().map(Piece::bytes).any(|bytes| {
        // SAFETY: both arguments are pointer and length of live slices.
        bytes.len() <= FRAME_BYTES
            && !unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), NAME.as_ptr().cast(), NAME.len()) }.is_null()
    })
}

/// Pickles with `multigil._transfer`, which sends what `__main__` defines by value.
unsafe fn pickle_by_value(object: *mut ffi::PyObject) -> Result<Vec<Piece>> {
    let bytes = py::import(c"multigil._transfer")?.attribute(c"dumps")?.call(&[object])?;
    Ok(vec![piece(bytes.as_ptr())?])
}

/// The plain pickler failed; perhaps because something is defined in another interpreter's `__main__`.
unsafe fn pickle_after_failure(object: *mut ffi::PyObject) -> Result<Vec<Piece>> {
    let error = ffi::PyErr_GetRaisedException();
    if ffi::PyErr_GivenExceptionMatches(error, ffi::PyExc_Exception) != 0
        && let Ok(pieces) = pickle_by_value(object)
    {
        ffi::Py_DECREF(error);
        return Ok(pieces);
    }
    if ffi::PyErr_Occurred().is_null() || ffi::PyErr_ExceptionMatches(ffi::PyExc_Exception) != 0 {
        ffi::PyErr_SetRaisedException(error); // the first error is the telling one
    } else {
        ffi::Py_DECREF(error); // KeyboardInterrupt
    }
    Err(Raised)
}

unsafe fn piece(object: *mut ffi::PyObject) -> Result<Piece> {
    let mut buffer = core::mem::MaybeUninit::<ffi::Py_buffer>::uninit();
    check(ffi::PyObject_GetBuffer(object, buffer.as_mut_ptr(), ffi::PyBUF_SIMPLE))?;
    Ok(Piece(buffer.assume_init()))
}

/// The file that a pickler writes to.
#[repr(C)]
struct Writer {
    base: ffi::PyObject,
    pieces: Vec<Piece>,
}

unsafe extern "C" fn write(object: *mut ffi::PyObject, bytes: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let piece = piece(bytes)?;
        let length = piece.0.len;
        let pieces = &mut (*object.cast::<Writer>()).pieces;
        if pieces.try_reserve(1).is_err() {
            return out_of_buffers();
        }
        pieces.push(piece);
        Owned::from_raw(ffi::PyLong_FromSsize_t(length))
    })
}

unsafe extern "C" fn deallocate_writer(object: *mut ffi::PyObject) {
    let class = ffi::Py_TYPE(object);
    ffi::PyObject_GC_UnTrack(object.cast());
    (&raw mut (*object.cast::<Writer>()).pieces).drop_in_place();
    let free = (*class).tp_free.unwrap_unchecked(); // every type has it
    free(object.cast());
    ffi::Py_DECREF(class.cast());
}

static mut WRITER_METHODS: [ffi::PyMethodDef; 2] =
    [py::method_one(c"write", write, c"Keep a piece of a pickle."), py::METHODS_END];

/// Makes the type of the file that picklers write to.
pub(crate) unsafe fn make_writer_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let mut slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_dealloc, pfunc: deallocate_writer as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_traverse, pfunc: py::traverse_type as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: (&raw mut WRITER_METHODS).cast() },
        ffi::PyType_Slot { slot: 0, pfunc: null_mut() },
    ];
    let mut spec = ffi::PyType_Spec {
        name: (c"multigil._core.Writer".as_ptr()) as *const c_char,
        basicsize: size_of::<Writer>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT
            | ffi::Py_TPFLAGS_HAVE_GC
            | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
            | ffi::Py_TPFLAGS_IMMUTABLETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    Owned::from_raw(ffi::PyType_FromModuleAndSpec(module, &raw mut spec, null_mut()))
}
