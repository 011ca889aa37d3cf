//! `multigil._core`: queues, locks and interpreters as native types of CPython, over raw `pyo3::ffi`.
//!
//! PyO3's safe layer refuses to be imported by a second interpreter, so this crate speaks CPython's C API itself.
//!
//! # What makes it sound
//! * Every `unsafe fn` here asks two things, unless it says more: the calling thread is attached to an interpreter, and
//!   each object that it is given is alive and belongs to that interpreter.
//! * A function that gives an object gives an owned reference ([`py::Owned`]), or says that it is borrowed.
//! * No object is in a static: what an interpreter needs is in its module's [`state::State`], and an instance reaches
//!   it through a pointer that counts as a reference: the garbage collector may free the module before them.
//! * [`py::guard`] is at every entrance, so that no panic reaches C.
//!
//! # The rooms
//! | room | job |
//! |---|---|
//! | [`py`] | owned references, errors, arguments: the little that the others need of the C API |
//! | [`state`] | what one interpreter has: its number, its types, the objects that it calls |
//! | [`errors`] | the one place where the engine's errors become exceptions |
//! | [`wait`] | waiting without the GIL, signals, and being interrupted |
//! | [`codec`] | objects to messages and back |
//! | [`seal`] | messages that nobody can forge |
//! | [`handle`] | what queues and locks share: one object for each id, pickling, staying alive in messages |
//! | [`ordered`], [`custom`] | queues that keep an order, and those that Python keeps |
//! | [`queue`], [`lock`], [`rlock`], [`condition`], [`event`], [`semaphore`], [`barrier`] | the types |
//! | [`typecode`], [`atomics`] | what an element of shared memory is to Python, and what is done to it in one step |
//! | [`value`], [`array`], [`memory`] | the types that are one of them, many, or only bytes |
//! | [`interpreter`] | an interpreter with a thread and a GIL of its own |
//! | [`process`] | a worker that is a process, and its parent |
//! | [`pool`] | the tasks of pools, and who has begun with what |
//! | [`wait_any`] | waiting for the first of several things |
//! | [`alarm`], [`asyncio`] | readiness as file descriptors; what an event loop awaits |
//! | [`region`] | regions that are opened by name, and names of objects |
//! | [`fork`] | what a forked child has of all this |
//! | this one | the module |

mod alarm;
mod array;
mod asyncio;
mod atomics;
mod barrier;
mod batch;
mod codec;
mod condition;
mod custom;
mod diagnosis;
mod errors;
mod event;
mod fork;
mod handle;
mod interpreter;
mod lock;
mod memory;
mod ordered;
mod pool;
mod process;
mod py;
mod queue;
mod region;
mod rlock;
mod seal;
mod semaphore;
mod state;
mod typecode;
mod value;
mod wait;
mod wait_any;

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use std::sync::Arc;

use multigil::layout::ObjectKind;
use parking_lot::Mutex;
use pyo3::ffi;

use crate::py::{Owned, Raised, Shared};
use crate::state::State;

static mut METHODS: [ffi::PyMethodDef; 40] = [
    py::method_fast(c"attach", handle::attach, c"Give the queue or lock that an id names: what unpickling one calls."),
    py::method_no_args(
        c"blocks",
        blocks,
        c"The memory of this process's region, block by block, read-only, without a copy.",
    ),
    py::method_no_args(c"statistics", statistics, c"What the region holds, as a dict of bytes and counts."),
    py::method_no_args(
        c"waits",
        diagnosis::waits,
        c"The threads that wait, as (native_id, interpreter_id, seconds, subject); a subject is (class, index, generation).",
    ),
    py::method_no_args(
        c"held_locks",
        diagnosis::held_locks,
        c"The locks that somebody holds, as (subject, interpreter_id, native_id).",
    ),
    py::method_no_args(c"frames", diagnosis::frames, c"The innermost frame of each thread of this interpreter, by ident."),
    py::method_no_args(c"interpreter_ids", diagnosis::interpreter_ids, c"The interpreters that look_into() reaches."),
    py::method_fast(
        c"look_into",
        diagnosis::look_into,
        c"look_into($module, interpreter_id, source, timeout)\n--\n\n\
Run source text in another interpreter, and give the bytes that it calls result.\n\n\
It runs between two bytecodes of the threads there. Gives None if their GIL is not to be had within timeout seconds, if\n\
the interpreter has ended, or if the text failed.",
    ),
    py::method_no_args(c"current_interpreter_id", current_interpreter_id, c"CPython's id of the calling interpreter."),
    py::method_no_args(
        c"subinterpreters",
        interpreter::subinterpreters,
        c"All interpreters of this process that Subinterpreter has made and that have not ended, in that order.",
    ),
    py::method_no_args(
        c"new_number",
        new_number,
        c"1, 2, 3 ...: a number that no interpreter of this process had yet.",
    ),
    py::method_fast(
        c"perform",
        perform,
        c"perform($module, number, function, /, *args)\n--\n\n\
As expose(), and make the call (callable, args, kwargs) that the function gives; give a tuple of what that gave.",
    ),
    py::method_fast(
        c"expose",
        expose,
        c"expose($module, number, function, /, *args)\n--\n\n\
Call function(*args), which belongs to the task of that number, and let interrupt() and terminate() strike.\n\n\
They strike a worker's thread nowhere else. What was asked for before is raised instead of the call, and what comes too\n\
late for the call strikes nothing. With None as number, only terminate() strikes.",
    ),
    py::method_fast(
        c"put_numbered",
        pool::put_numbered,
        c"put_numbered($module, queue, number, item)\n--\n\n\
Put an item with a number, and give the bytes that it takes. get() gives (number, item, error).\n\n\
What unpickling the item raises is not raised, but the error, with None as the item; otherwise the error is None.",
    ),
    py::method_fast(
        c"take_outcomes",
        pool::take_outcomes,
        c"take_outcomes($module, results, keep, block, timeout, spin)\n--\n\n\
Take all that is in a queue, wait for something as get() does, and call keep(list of it) in the same step.\n\n\
With spin, the wait begins with looking again and again for some microseconds. Raises Empty.",
    ),
    py::method_fast(
        c"perform_next",
        pool::perform_next,
        c"perform_next($module, tasks, results, tickets, worker, count, changes, refresh, functions)\n--\n\n\
Wait for the next task of a pool, and make the call (callable, args, kwargs) that it is, as expose() does. Bytes stand for\n\
the callable functions[bytes].\n\n\
Gives (number, result, error), of which one is None; () if the task was cancelled; None if no more tasks come. A task's\n\
ticket, the element of the array that the low bits of its number name, tells from its beginning on which of the worker's\n\
tasks it is: the count-th. interrupt() knows it by that count. refresh() is called before if the element after the\n\
tickets is not changes. If the one after that is not 0, a worker without a task says so in results.",
    ),
    py::method_fast(
        c"wait_any",
        wait_any::wait_any,
        c"wait_any($module, /, *objects, timeout=None)\n--\n\n\
Wait for the first of several things, and give that object; nothing is taken from any.\n\n\
A queue is ready when it has an item or is shut down, a lock when it could be acquired, an event when it is set, a\n\
semaphore when its value is positive, an Interpreter when it has ended, a file descriptor (an int, or an object with a\n\
method fileno) when a read would not wait. Of several that are ready, the first one in the arguments is given; None\n\
after timeout seconds if that is not None. Whoever takes what was ready may come too late.",
    ),
    py::method_one(c"times_set", event::times_set, c"times_set($module, event, /)\n--\n\nHow often an Event was set."),
    py::method_fast(
        c"create_memory",
        memory::create,
        c"create_memory($module, name, size)\n--\n\nMake memory of that name; None if there is some already.",
    ),
    py::method_one(
        c"open_memory",
        memory::open,
        c"open_memory($module, name, /)\n--\n\nGive the memory of that name; None if there is none.",
    ),
    py::method_fast(
        c"unlink_memory",
        memory::unlink,
        c"unlink_memory($module, name, region)\n--\n\nTake a name away from its memory; whether there was one.",
    ),
    py::method_fast(
        c"open_region",
        region::open,
        c"open_region($module, name, create)\n--\n\n\
Open a region until close_region(), and give its number. With None as name, a new one; with None as create, it is made if\n\
there is none. Gives None if there is one although create is true, or none although it is false.",
    ),
    py::method_fast(
        c"join_region",
        region::join,
        c"join_region($module, number, location)\n--\n\nOpen a region of another process until close_region().",
    ),
    py::method_one(
        c"close_region",
        region::close,
        c"close_region($module, number, /)\n--\n\nThe end of open_region() and join_region(); objects keep it open.",
    ),
    py::method_one(
        c"region_location",
        region::location,
        c"region_location($module, number, /)\n--\n\nHow other processes get at a region.",
    ),
    py::method_no_args(c"region_names", region::region_names, c"The names of this user's regions."),
    py::method_no_args(
        c"retire_regions",
        region::retire,
        c"At the end of the program: take away the names of regions that nobody else uses.",
    ),
    py::method_fast(
        c"set_key",
        seal::set_key,
        c"set_key($module, number, key)\n--\n\nHave the messages of a region sealed with a key.",
    ),
    py::method_fast(
        c"make_in",
        region::make_in,
        c"make_in($module, number, function, args, kwargs)\n--\n\nCall a function that makes its objects in a region.",
    ),
    py::method_fast(
        c"find_object",
        region::find_object,
        c"find_object($module, number, class_, name)\n--\n\nGive the object of that name in a region; None if there is none.",
    ),
    py::method_fast(
        c"name_object",
        region::name_object,
        c"name_object($module, number, class_, name, object)\n--\n\nName an object of a region; False if another has the name.",
    ),
    py::method_fast(
        c"unname_object",
        region::unname_object,
        c"unname_object($module, number, class_, name)\n--\n\nTake a name away from its object; whether there was one.",
    ),
    py::method_one(
        c"object_names",
        region::object_names,
        c"object_names($module, number, /)\n--\n\nThe names in a region, as (name of the class, name).",
    ),
    py::method_no_args(c"region_number", process::region_number, c"The number of this process's region."),
    py::method_no_args(c"region_descriptor", process::region_descriptor, c"The file of this process's region."),
    py::method_no_args(
        c"recover_dead",
        process::recover_dead,
        c"Put right what processes left that have died, and give how many interpreters it were.",
    ),
    py::method_fast(
        c"obey",
        process::obey,
        c"obey($module, control, parent, answered, inboxes)\n--\n\n\
Let the parent strike the calling thread, the first of this process, as interrupt() and terminate() do an interpreter's.\n\n\
It asks through a pipe, of which this call takes the descriptor, and answered becomes the number of the last request that\n\
was seen to. SIGINT strikes, whose handler must be answer_signal.\n\
When the parent has died, the inboxes are shut down, the thread is terminated, and after two seconds the process killed.",
    ),
    py::method_fast(
        c"answer_signal",
        wait::answer_signal,
        c"answer_signal($module, signal, frame, /)\n--\n\nRaise what the calling thread is struck with, if it is.",
    ),
    py::method_one(c"__getattr__", module_attribute, c"Give what is imported when it is asked for."),
    py::METHODS_END,
];

static SLOTS: Shared<[ffi::PyModuleDef_Slot; SLOT_COUNT]> = Shared([
    ffi::PyModuleDef_Slot { slot: ffi::Py_mod_exec, value: execute as *mut c_void },
    ffi::PyModuleDef_Slot { slot: ffi::Py_mod_multiple_interpreters, value: ffi::Py_MOD_PER_INTERPRETER_GIL_SUPPORTED },
    #[cfg(Py_3_13)]
    ffi::PyModuleDef_Slot { slot: ffi::Py_mod_gil, value: ffi::Py_MOD_GIL_NOT_USED },
    ffi::PyModuleDef_Slot { slot: 0, value: null_mut() },
]);
const SLOT_COUNT: usize = if cfg!(Py_3_13) { 4 } else { 3 };

/// The module's definition. CPython writes to it (its reference count and index), so it is mutable.
static mut MODULE: ffi::PyModuleDef = ffi::PyModuleDef {
    m_base: ffi::PyModuleDef_HEAD_INIT,
    m_name: c"multigil._core".as_ptr(),
    m_doc: c"The native module: queues, locks and interpreters over the shared-memory engine.".as_ptr(),
    m_size: size_of::<*mut State>() as ffi::Py_ssize_t,
    m_methods: (&raw mut METHODS).cast(),
    m_slots: (&raw const SLOTS).cast_mut().cast(),
    m_traverse: Some(traverse),
    m_clear: Some(clear),
    m_free: Some(free),
};

/// The entrance: CPython calls it once an interpreter.
///
/// # Safety
/// Only CPython's import system calls it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn PyInit__core() -> *mut ffi::PyObject {
    ffi::PyModuleDef_Init(&raw mut MODULE)
}

/// Where a module keeps its reference to its state; null if it is not made yet or was freed.
unsafe fn state_slot(module: *mut ffi::PyObject) -> *mut *mut State {
    ffi::PyModule_GetState(module).cast()
}

/// The state of the module that defines `class` or one of its bases.
pub(crate) unsafe fn state_of_type(class: *mut ffi::PyTypeObject) -> py::Result<&'static State> {
    let module = ffi::PyType_GetModuleByDef(class, &raw mut MODULE);
    if module.is_null() {
        return Err(Raised);
    }
    Ok(&**state_slot(module))
}

unsafe extern "C" fn execute(module: *mut ffi::PyObject) -> c_int {
    py::guard_status(|| {
        let state = Arc::into_raw(Arc::new(State::new()?));
        *state_slot(module) = state.cast_mut();
        (*state).fill(module)
    })
}

unsafe extern "C" fn traverse(module: *mut ffi::PyObject, visit: ffi::visitproc, argument: *mut c_void) -> c_int {
    let slot = state_slot(module);
    if slot.is_null() || (*slot).is_null() { 0 } else { (**slot).traverse(visit, argument) }
}

unsafe extern "C" fn clear(module: *mut ffi::PyObject) -> c_int {
    let slot = state_slot(module);
    if !slot.is_null() && !(*slot).is_null() {
        (**slot).clear();
    }
    0
}

unsafe extern "C" fn free(module: *mut c_void) {
    let slot = state_slot(module.cast());
    if !slot.is_null() && !(*slot).is_null() {
        drop(Arc::from_raw(*slot));
        *slot = null_mut();
    }
}

unsafe fn state_of_module(module: *mut ffi::PyObject) -> &'static State {
    &**state_slot(module)
}

unsafe extern "C" fn module_attribute(module: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let is = |known: &core::ffi::CStr| ffi::PyUnicode_CompareWithASCIIString(name, known.as_ptr()) == 0;
        // The import system asks for attributes before the module has a state.
        if is(c"Full") {
            return state_of_module(module).full();
        }
        if is(c"ShutDown") {
            return state_of_module(module).shut_down();
        }
        if is(c"BrokenBarrierError") {
            return state_of_module(module).broken_barrier_error();
        }
        let text = c"module 'multigil._core' has no attribute '%U'";
        ffi::PyErr_Format(ffi::PyExc_AttributeError, text.as_ptr(), name);
        Err(Raised)
    })
}

unsafe extern "C" fn blocks(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let segments = state_of_module(module).home().region.segments();
        let tuple = Owned::from_raw(ffi::PyTuple_New(segments.len() as ffi::Py_ssize_t))?;
        for (place, (start, length)) in segments.into_iter().enumerate() {
            let length = length as ffi::Py_ssize_t;
            // The segments of this process's region are never unmapped, so the view needs no owner.
            let view = Owned::from_raw(ffi::PyMemoryView_FromMemory(start.cast_mut().cast(), length, ffi::PyBUF_READ))?;
            ffi::PyTuple_SetItem(tuple.as_ptr(), place as ffi::Py_ssize_t, view.into_raw());
        }
        Ok(tuple)
    })
}

unsafe extern "C" fn statistics(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let statistics = state_of_module(module).home().region.statistics();
        let dict = Owned::from_raw(ffi::PyDict_New())?;
        let memory = [
            ("bytes_reserved", statistics.memory.reserved),
            ("bytes_in_use", statistics.memory.in_use),
            ("bytes_retained", statistics.memory.retained),
            ("blocks", statistics.memory.blocks),
            ("interpreters", u64::from(statistics.peers)),
        ];
        let objects = ObjectKind::ALL.iter().map(|kind| kind.plural()).zip(statistics.objects);
        for (name, value) in memory.into_iter().chain(objects) {
            let name = ffi::PyUnicode_FromStringAndSize(name.as_ptr().cast(), name.len() as ffi::Py_ssize_t);
            let name = Owned::from_raw(name)?;
            let value = Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(value))?;
            py::check(ffi::PyDict_SetItem(dict.as_ptr(), name.as_ptr(), value.as_ptr()))?;
        }
        Ok(dict)
    })
}

unsafe extern "C" fn new_number(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    static LAST: Mutex<u64> = Mutex::new(0);
    py::guard(|| {
        let mut last = LAST.lock();
        *last += 1;
        Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(*last))
    })
}

unsafe extern "C" fn expose(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| exposed(module, values, count, names, "expose", Ok))
}

/// The call that the function gives is exposed with it. So nothing strikes between the end of that call, if it is one
/// of C, and the end of being exposed: an item that it has taken from a queue is not lost.
unsafe extern "C" fn perform(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        exposed(module, values, count, names, "perform", |call| {
            let (mut function, mut arguments, mut keywords) = (null_mut(), null_mut(), null_mut()); // borrowed
            let (tuple, dict) = (&raw mut ffi::PyTuple_Type, &raw mut ffi::PyDict_Type);
            let parts = (&raw mut function, &raw mut arguments, &raw mut keywords);
            let format = c"OO!O!:perform".as_ptr();
            if ffi::PyArg_ParseTuple(call.as_ptr(), format, parts.0, tuple, parts.1, dict, parts.2) == 0 {
                return Err(Raised);
            }
            let result = Owned::from_raw(ffi::PyObject_Call(function, arguments, keywords))?;
            Owned::from_raw(ffi::PyTuple_Pack(1, result.as_ptr()))
        })
    })
}

unsafe fn exposed(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    name: &str,
    then: impl FnOnce(Owned) -> py::Result<Owned>,
) -> py::Result<Owned> {
    if count < 2 || !names.is_null() {
        let text = format!("{name}() takes a number, a function and positional arguments");
        return py::raise(ffi::PyExc_TypeError, &text);
    }
    let (number, function) = (*values, *values.add(1));
    let number = if number == ffi::Py_None() { wait::NO_TASK } else { py::unsigned(number)? };
    wait::expose(state_of_module(module), number, || {
        let count = count as usize - 2;
        Owned::from_raw(ffi::PyObject_Vectorcall(function, values.add(2), count, null_mut())).and_then(then)
    })
}

unsafe extern "C" fn current_interpreter_id(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        Owned::from_raw(ffi::PyLong_FromLongLong(ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get())))
    })
}
