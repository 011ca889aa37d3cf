//! `put_many` and `get_many`: several items in one call, with one wake for those who wait at the other end.
//!
//! A call that ends early says how far it has come: its exception tells how many items were put, or carries those that
//! were taken.

use core::ffi::CStr;

use multigil::object::{Handle, Message};
use pyo3::ffi;

use crate::py::{self, Arguments, Owned, Raised, Result, check, raise};
use crate::queue::{Batch, Kind, get_willing, not_got, put_willing, with_queue};
use crate::state::State;
use crate::wait::Willing;
use crate::{codec, custom};

pub(crate) unsafe extern "C" fn put_many(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| put_all(state, queue, arguments),
            custom::call(object, c"put_many", arguments).map(drop)
        )
    })
}

unsafe fn put_all<K: Kind>(state: &'static State, queue: &Handle<'static, K>, arguments: Arguments) -> Result<()> {
    let [items, block, timeout] = arguments.parse("put_many", [c"items", c"block", c"timeout"], 1)?;
    let ready = put_willing(state, &**queue, block, timeout)
        .and_then(|willing| Ok((willing, encode_all(state, queue, items)?)));
    let count = |put| Owned::from_raw(ffi::PyLong_FromSize_t(put));
    let (willing, (mut messages, items)) = ready.inspect_err(|_| annotate(c"count", count(0), None))?;
    let mut put = 0;
    K::put_all(state, queue, &mut messages, &items, &mut put, willing).inspect_err(|_| {
        let note = format!("put_many(): {put} of {} items were put", messages.len());
        annotate(c"count", count(put), Some(&note));
    })
}

/// Makes a message of each item, and keeps the items if need be.
unsafe fn encode_all<K: Kind>(
    state: &'static State,
    queue: &Handle<'static, K>,
    items: *mut ffi::PyObject,
) -> Result<(Vec<Message<'static>>, Vec<Owned>)> {
    /// A length that is only a guess must not cost more memory than this.
    const MOST_GUESSED: usize = 1 << 12;
    let iterator = Owned::from_raw(ffi::PyObject_GetIter(items))?;
    let (mut messages, mut kept) = (Vec::new(), Vec::new());
    let guess = ffi::PyObject_LengthHint(items, 0);
    if guess < 0 {
        return Err(Raised);
    }
    messages.reserve((guess as usize).min(MOST_GUESSED));
    loop {
        let Ok(item) = Owned::from_raw(ffi::PyIter_Next(iterator.as_ptr())) else {
            return if ffi::PyErr_Occurred().is_null() { Ok((messages, kept)) } else { Err(Raised) };
        };
        if messages.try_reserve(1).is_err() || kept.try_reserve(1).is_err() {
            ffi::PyErr_NoMemory();
            return Err(Raised);
        }
        messages.push(Message::new(queue.region(), queue.owner()));
        let last = messages.len() - 1;
        codec::encode(state, queue, item.as_ptr(), &mut messages[last])?;
        if K::COMPARES {
            kept.push(item);
        }
    }
}

pub(crate) unsafe extern "C" fn get_many(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let arguments = Arguments::new(values, count, names);
        with_queue!(
            object,
            |state, queue| get_all(state, object, queue, arguments),
            custom::call(object, c"get_many", arguments)
        )
    })
}

unsafe fn get_all<K: Kind>(
    state: &'static State,
    object: *mut ffi::PyObject,
    queue: &Handle<'static, K>,
    arguments: Arguments,
) -> Result<Owned> {
    let [count, block, timeout] = arguments.parse("get_many", [c"count", c"block", c"timeout"], 0)?;
    let count = if count.is_null() || count == ffi::Py_None() { u64::MAX.into() } else { py::integer(count)? };
    if count < 0 {
        return raise(ffi::PyExc_ValueError, "'count' must be a non-negative number");
    }
    let items = Owned::from_raw(ffi::PyList_New(0))?;
    if count > 0 {
        let willing = get_willing(state, &**queue, block, timeout)?;
        take_all(state, object, queue, u64::try_from(count).unwrap_or(u64::MAX), &willing, &items)?;
    }
    Ok(items)
}

/// Appends at least one item to the list, and at most `count`.
unsafe fn take_all<K: Kind>(
    state: &'static State,
    object: *mut ffi::PyObject,
    queue: &Handle<'static, K>,
    count: u64,
    willing: &Willing,
    items: &Owned,
) -> Result<()> {
    let mut batch = K::batch(state, queue);
    let mut message = Message::new(queue.region(), queue.owner());
    if let Err(error) = batch.get(&mut message, willing)? {
        return not_got(state, object, error);
    }
    // When the next item stays where it is: there is no memory for it, or it can't be compared.
    let stays = if K::COMPARES { ffi::PyExc_Exception } else { ffi::PyExc_MemoryError };
    // What comes later is the next call's: producers who keep up with us would keep us here.
    let there = queue.len().saturating_add(1).min(count);
    for left in (0..there).rev() {
        if codec::runs_python(&message) {
            batch.tell(); // nobody knows how long that takes, and what it waits for
        }
        let item = codec::decode(state, queue, &message);
        let appended = item.and_then(|item| check(ffi::PyList_Append(items.as_ptr(), item.as_ptr())));
        appended.inspect_err(|_| annotate_items(items))?;
        if left == 0 {
            break;
        }
        message = Message::new(queue.region(), queue.owner());
        match batch.get(&mut message, &Willing::No) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(Raised) if ffi::PyErr_ExceptionMatches(stays) != 0 => {
                ffi::PyErr_Clear(); // the next call says so
                break;
            }
            Err(Raised) => {
                annotate_items(items); // of a signal handler
                return Err(Raised);
            }
        }
    }
    Ok(())
}

/// Gives the exception that is set the items that were taken.
#[cold]
unsafe fn annotate_items(items: &Owned) {
    let taken = ffi::PyList_Size(items.as_ptr());
    let note = format!("get_many(): {taken} items were taken before, see the attribute 'items'");
    annotate(c"items", Ok(Owned::from_borrowed(items.as_ptr())), (taken > 0).then_some(&note));
}

/// Gives the exception that is set an attribute, and perhaps a note. What can't be said there is said as of an exception
/// that nobody catches.
#[cold]
unsafe fn annotate(name: &CStr, value: Result<Owned>, note: Option<&str>) {
    let Ok(error) = Owned::from_raw(ffi::PyErr_GetRaisedException()) else { return };
    let text = |text: &str| {
        Owned::from_raw(ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as ffi::Py_ssize_t))
    };
    let add_note = |note: &str| error.attribute(c"add_note")?.call(&[text(note)?.as_ptr()]);
    // Whatever the exception's class makes of it.
    let set = |value: &Owned| {
        let name = Owned::from_raw(ffi::PyUnicode_FromString(name.as_ptr()))?;
        check(ffi::PyObject_GenericSetAttr(error.as_ptr(), name.as_ptr(), value.as_ptr()))
    };
    if note.is_some_and(|note| add_note(note).is_err()) {
        ffi::PyErr_WriteUnraisable(error.as_ptr());
    }
    if value.as_ref().map_err(|_| Raised).and_then(set).is_err() {
        ffi::PyErr_WriteUnraisable(value.as_ref().map_or(error.as_ptr(), Owned::as_ptr));
    }
    ffi::PyErr_SetRaisedException(error.into_raw());
}
