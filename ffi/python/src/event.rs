//! `Event`: `threading.Event` in every method, between threads and interpreters. In the engine it is a `Flag`.

use core::ffi::c_void;
use core::ptr::null_mut;

use multigil::error::WaitError;
use multigil::flag::Flag;
use multigil::layout::ObjectKind;
use multigil::object::SharedFlag;
use pyo3::ffi;

use crate::handle::{self, HandleObject, Watched};
use crate::py::{self, Arguments, Owned, Result, check, raise};
use crate::state::State;
use crate::wait::{self, Subject};
use crate::{alarm, asyncio, fork};

type Object = HandleObject<SharedFlag>;

unsafe extern "C" fn event_is_set(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(is_set(object)))
}

unsafe fn is_set(object: *mut ffi::PyObject) -> bool {
    let is_set = Object::of(object).1.is_set();
    if !is_set {
        alarm::missed(object);
    }
    is_set
}

unsafe extern "C" fn event_is_set_deprecated(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let text = c"isSet() is deprecated, use is_set() instead";
        check(ffi::PyErr_WarnEx(ffi::PyExc_DeprecationWarning, text.as_ptr(), 1))?;
        Ok(is_set(object))
    })
}

unsafe extern "C" fn event_set(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let flag = Object::of(object).1;
        flag.set(flag.region().bell());
        Ok(())
    })
}

unsafe extern "C" fn event_clear(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        Object::of(object).1.clear();
        Ok(())
    })
}

unsafe fn wait(object: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<bool> {
    let deadline = wait::join_timeout(timeout)?;
    let (state, flag) = Object::of(object);
    let seen = flag.now();
    if flag.is_set() {
        return Ok(true);
    }
    let result = wait::wait(
        state,
        Subject::of(flag),
        deadline,
        |patience| flag.wait(seen, flag.region().bell(), patience),
        |error| *error == WaitError::Interrupted,
    )?;
    if result.is_err() {
        alarm::missed(object);
    }
    Ok(result.is_ok())
}

unsafe extern "C" fn event_wait(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let [timeout] = Arguments::new(values, count, names).parse("wait", [c"timeout"], 0)?;
        wait(object, timeout)
    })
}

/// `times_set(event)`: what [`watch_since`] wants to know.
pub(crate) unsafe extern "C" fn times_set(module: *mut ffi::PyObject, event: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        check_kind(crate::state_of_module(module), event)?;
        Owned::from_raw(ffi::PyLong_FromUnsignedLong(Object::of(event).1.times_set().into()))
    })
}

/// What a wait waits for that began when the event had been set so often.
pub(crate) unsafe fn watch_since(state: &State, event: *mut ffi::PyObject, times_set: u32) -> Result<Watched> {
    check_kind(state, event)?;
    let flag = Object::of(event).1;
    Ok(Watched { thing: Box::new(flag.from_then(times_set)), place: Some(handle::place(flag)) })
}

unsafe fn check_kind(state: &State, event: *mut ffi::PyObject) -> Result<()> {
    match handle::whereabouts_of(state, event) {
        Some((_, _, ObjectKind::Flag)) => Ok(()),
        _ => raise(ffi::PyExc_TypeError, "it has to be an Event"),
    }
}

/// What `wait_any` waits for.
pub(crate) unsafe fn watch(object: *mut ffi::PyObject) -> Watched {
    let flag = Object::of(object).1;
    Watched { thing: Box::new(flag.from_now()), place: Some(handle::place(flag)) }
}

/// `threading` calls this for its own in a forked child. There, the object becomes another event, since this one is still
/// the parent's; it is set if this one was.
unsafe extern "C" fn event_at_fork_reinit(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let flag = Object::of(object).1;
        if !fork::is_child() {
            return Ok(());
        }
        let region = flag.region();
        let set_up = |fresh: &Flag| {
            if flag.is_set() {
                fresh.set(region.bell());
            }
        };
        handle::renew(object, region.create_shared::<Flag>(flag.owner(), set_up))
    })
}

unsafe extern "C" fn event_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| handle::repr(object, if Object::of(object).1.is_set() { "set" } else { "unset" }))
}

unsafe extern "C" fn new_event(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        py::check_no_arguments("Event", class, &state.objects.event_type, arguments, keywords)?;
        let place = state.here();
        handle::wrap_made(state, class, place.region.create_shared::<Flag>(place.me, |_| {}))
    })
}

static mut METHODS: [ffi::PyMethodDef; 10] = [
    py::method_no_args(c"is_set", event_is_set, c"is_set($self)\n--\n\nWhether the event is set."),
    py::method_no_args(
        c"isSet",
        event_is_set_deprecated,
        c"isSet($self)\n--\n\nWhether the event is set. Deprecated: use is_set().",
    ),
    py::method_no_args(
        c"set",
        event_set,
        c"set($self)\n--\n\n\
Set the event: everybody who waits goes on, even if it is cleared at once, and whoever waits later does not wait.",
    ),
    py::method_no_args(c"clear", event_clear, c"clear($self)\n--\n\nTake set() back: whoever waits from now on waits."),
    py::method_fast(
        c"wait",
        event_wait,
        c"wait($self, timeout=None)\n--\n\n\
Wait until the event is set, at most timeout seconds if that is not None; whether it was set.",
    ),
    asyncio::AWAIT,
    alarm::FILENO,
    py::method_no_args(c"_at_fork_reinit", event_at_fork_reinit, c"In a forked child, become an event of its own."),
    py::method_no_args(c"__reduce__", handle::reduce::<SharedFlag>, c"Pickle the event by its id."),
    py::METHODS_END,
];

/// Makes the type `Event`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Event()\n--\n\n\
A flag to wait for, shared by threads and interpreters; threading.Event in every method.\n\n\
It is not set at first. An event may be sent to other interpreters, in a queue's items and as an argument.";
    let repr = ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: event_repr as *mut c_void };
    let methods = (&raw mut METHODS).cast();
    handle::make_type::<SharedFlag>(module, c"multigil.Event", doc, new_event, methods, null_mut(), &[repr])
}
