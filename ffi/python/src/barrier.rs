//! `Barrier`: `threading.Barrier` in every method, between threads and interpreters.
//!
//! The action is the barrier's companion: each interpreter has its own copy. It is pickled as the object's state, after
//! the object, which it may lead back to: it is often one of its methods. The time limit is a word of the barrier's.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::time::Instant;

use multigil::barrier::{Arrival, Barrier, Last};
use multigil::error::{BarrierError, WaitError};
use multigil::object::{Handle, SharedBarrier};
use multigil::waiters::{Call, Sitting};
use pyo3::ffi;

use crate::errors;
use crate::handle::{self, HandleObject, owner};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;
use crate::wait::{self, Subject};

type Object = HandleObject<SharedBarrier>;

unsafe fn wait(object: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<u32> {
    let (state, barrier) = Object::of(object);
    if barrier.parties() == 0 {
        return raise(ffi::PyExc_RuntimeError, "Barrier.__init__() not called");
    }
    let limit = wait::time_limit(timeout)?.or_else(|| barrier.time_limit());
    let arrival = match barrier.try_arrive(barrier.region(), owner(barrier)) {
        Ok(Some(arrival)) => Ok(arrival),
        // Its action is the last one's business, so it counts for nobody's time.
        Ok(None) => wait::wait(
            state,
            Subject::of(barrier),
            None,
            |patience| barrier.arrive(barrier.region(), owner(barrier), barrier.region().bell(), patience),
            |error| *error == BarrierError::Interrupted,
        )?,
        Err(error) => Err(error),
    };
    match arrival {
        Ok(Arrival::Last(last)) => act(state, object, last),
        Ok(Arrival::Waiting(index, sitting)) => {
            let deadline = limit.map(|limit| Instant::now() + limit);
            wait_for_others(state, barrier, &sitting, deadline)?;
            Ok(index)
        }
        Err(error) => errors::barrier(state, error),
    }
}

unsafe fn wait_for_others(
    state: &State,
    barrier: &Handle<'static, SharedBarrier>,
    sitting: &Sitting<'_>,
    mut deadline: Option<Instant>,
) -> Result<()> {
    let (region, bell, ticket) = (barrier.region(), barrier.region().bell(), sitting.ticket());
    loop {
        let waited = wait::wait(
            state,
            Subject::of(barrier),
            deadline,
            |patience| sitting.wait(patience),
            |error| *error == WaitError::Interrupted,
        );
        match waited {
            Ok(Ok(Call::Called)) => return Ok(()),
            Ok(Ok(Call::Dismissed)) => return errors::barrier(state, BarrierError::Broken),
            Ok(Err(_)) if barrier.time_out(ticket, region, bell) => {
                return errors::barrier(state, BarrierError::TimedOut);
            }
            Ok(Err(_)) => deadline = None, // too late to give up: a call comes
            Err(Raised) => {
                barrier.abandon(ticket, region, bell);
                return Err(Raised);
            }
        }
    }
}

/// What the last one does: the action, then the others go on.
unsafe fn act(state: &State, object: *mut ffi::PyObject, last: Last<'_>) -> Result<u32> {
    let (index, region) = (last.index(), Object::of(object).1.region());
    if let Err(Raised) = call_action(object) {
        last.fail(region, region.bell());
        return Err(Raised);
    }
    match last.release(region, region.bell()) {
        Ok(()) => Ok(index),
        Err(error) => errors::barrier(state, error),
    }
}

unsafe fn call_action(object: *mut ffi::PyObject) -> Result<()> {
    if let Some(action) = Object::companion(object)
        && py::truth(action.as_ptr(), false)?
    {
        action.call(&[])?;
    }
    Ok(())
}

unsafe extern "C" fn barrier_wait(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let [timeout] = Arguments::new(values, count, names).parse("wait", [c"timeout"], 0)?;
        Owned::from_raw(ffi::PyLong_FromUnsignedLong(wait(object, timeout)?.into()))
    })
}

unsafe extern "C" fn barrier_reset(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let barrier = Object::of(object).1;
        barrier.reset(barrier.region(), barrier.region().bell());
        Ok(())
    })
}

unsafe extern "C" fn barrier_abort(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let barrier = Object::of(object).1;
        barrier.abort(barrier.region(), barrier.region().bell());
        Ok(())
    })
}

unsafe extern "C" fn barrier_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let barrier = Object::of(object).1;
        let status = if barrier.is_broken() {
            "broken".to_owned()
        } else {
            format!("waiters={}/{}", barrier.arrived(), barrier.parties())
        };
        handle::repr(object, &status)
    })
}

unsafe extern "C" fn get_parties(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromUnsignedLong(Object::of(object).1.parties().into())))
}

unsafe extern "C" fn get_n_waiting(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromUnsignedLong(Object::of(object).1.arrived().into())))
}

unsafe extern "C" fn get_broken(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(Object::of(object).1.is_broken()))
}

/// The object by its id, and its action as its state.
unsafe extern "C" fn barrier_reduce(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let reduced = handle::reduced::<SharedBarrier>(object, None)?;
        match Object::companion(object) {
            None => Ok(reduced),
            Some(action) => {
                let action = Owned::from_raw(ffi::PyTuple_Pack(1, action.as_ptr()))?;
                Owned::from_raw(ffi::PySequence_Concat(reduced.as_ptr(), action.as_ptr()))
            }
        }
    })
}

/// A barrier that was here before has its action.
unsafe extern "C" fn barrier_set_state(object: *mut ffi::PyObject, action: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        if Object::companion(object).is_none() {
            Object::set_companion(object, Some(Owned::from_borrowed(action)));
        }
        Ok(())
    })
}

unsafe extern "C" fn initialize(
    object: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    py::guard_status(|| {
        let (parties, action, limit) = py::with_arguments(arguments, keywords, |arguments| {
            let parameters = [c"parties", c"action", c"timeout"];
            let [parties, action, timeout] = arguments.parse("Barrier", parameters, 1)?;
            let action = (!action.is_null() && action != ffi::Py_None()).then(|| Owned::from_borrowed(action));
            Ok((py::integer(parties)?, action, wait::time_limit(timeout)?))
        })?;
        if parties < 1 {
            return raise(ffi::PyExc_ValueError, "parties must be >= 1");
        }
        let Some(parties) = u32::try_from(parties).ok().filter(|parties| *parties <= Barrier::MAX_PARTIES) else {
            return raise(ffi::PyExc_OverflowError, &format!("parties must be <= {}", Barrier::MAX_PARTIES));
        };
        let barrier = Object::of(object).1;
        barrier.initialize(parties);
        barrier.set_time_limit(limit);
        Object::set_companion(object, action);
        Ok(())
    })
}

static mut METHODS: [ffi::PyMethodDef; 6] = [
    py::method_fast(
        c"wait",
        barrier_wait,
        c"wait($self, timeout=None)\n--\n\n\
Wait until as many wait as the barrier has parties; how many had come before: 0 to parties - 1.\n\n\
The last one calls the action, then all go on. Raises BrokenBarrierError if the barrier is broken or reset, and breaks it\n\
if it was waited for timeout seconds, or those of the constructor; an exception that ends the wait breaks it too.",
    ),
    py::method_no_args(
        c"reset",
        barrier_reset,
        c"reset($self)\n--\n\nMake the barrier as new. Raises BrokenBarrierError in those who wait.",
    ),
    py::method_no_args(
        c"abort",
        barrier_abort,
        c"abort($self)\n--\n\nBreak the barrier: all waits raise BrokenBarrierError, present and future ones.",
    ),
    py::method_no_args(c"__reduce__", barrier_reduce, c"Pickle the barrier by its id, and the action."),
    py::method_one(c"__setstate__", barrier_set_state, c"Give a barrier that was unpickled its action."),
    py::METHODS_END,
];

const fn attribute(name: &'static CStr, get: ffi::getter, doc: &'static CStr) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set: None, doc: doc.as_ptr(), closure: null_mut() }
}

static mut ATTRIBUTES: [ffi::PyGetSetDef; 4] = [
    attribute(c"parties", get_parties, c"How many must wait so that all go on."),
    attribute(c"n_waiting", get_n_waiting, c"How many waited a moment ago."),
    attribute(c"broken", get_broken, c"Whether the barrier is broken."),
    ffi::PyGetSetDef { name: core::ptr::null(), get: None, set: None, doc: core::ptr::null(), closure: null_mut() },
];

/// Makes the type `Barrier`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Barrier(parties, action=None, timeout=None)\n--\n\n\
A place where so many threads and interpreters wait for each other; threading.Barrier in every method.\n\n\
action is called by the last one to come, before all go on; timeout is that of wait() if it is given none. A barrier may\n\
be sent to other interpreters, in a queue's items and as an argument, if its action can be pickled.";
    let slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_init, pfunc: initialize as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: barrier_repr as *mut c_void },
    ];
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedBarrier>(
        module,
        c"multigil.Barrier",
        doc,
        handle::new::<Barrier>,
        methods,
        attributes,
        &slots,
    )
}
