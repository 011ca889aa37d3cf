//! What one interpreter has: its number as a participant, its types, and the Python objects that it calls.

use core::cell::Cell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::collections::BTreeMap;

use multigil::error::RegionError;
use multigil::layout::PeerId;
use multigil::object::{Location, Region};
use parking_lot::Mutex;
use pyo3::ffi;

use crate::codec::Pickler;
use crate::handle::Known;
use crate::py::{Owned, Raised, Result, check, import, raise};
use crate::{array, barrier, condition, event, interpreter, lock, memory, queue, rlock, semaphore, value};

/// Declares the objects that an interpreter's module holds, and all that has to be done for each of them.
macro_rules! objects {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The Python objects that the module holds. Null until [`State::fill`] made them, and after a clear.
        #[derive(Debug)]
        pub(crate) struct Objects {
            $($(#[$doc])* pub(crate) $name: Cell<*mut ffi::PyObject>,)*
        }

        impl Objects {
            const fn new() -> Objects {
                Objects { $($name: Cell::new(null_mut()),)* }
            }

            fn all(&self) -> impl Iterator<Item = &Cell<*mut ffi::PyObject>> {
                [$(&self.$name),*].into_iter()
            }
        }
    };
}

objects! {
    /// The type of the name.
    queue_type,
    /// The type of the name.
    lifo_queue_type,
    /// The type of the name.
    priority_queue_type,
    /// The type of the name.
    simple_queue_type,
    /// The type of the name.
    lock_type,
    /// The type of the name.
    rlock_type,
    /// The type of the name.
    condition_type,
    /// The type of the name.
    owner_type,
    /// The type of the name.
    event_type,
    /// The type of the name.
    semaphore_type,
    /// The type of the name.
    bounded_semaphore_type,
    /// The type of the name.
    barrier_type,
    /// The type of the name.
    value_type,
    /// The type of the name.
    array_type,
    /// The type of the name.
    memory_type,
    /// The type of the name.
    subinterpreter_type,
    /// The type of the file that picklers write to.
    writer_type,
    /// `queue.Empty`.
    empty,
    /// `queue.Full`, once it was needed: importing `queue` costs more than all the rest.
    full,
    /// `queue.ShutDown`, once it was needed.
    shut_down,
    /// `threading.BrokenBarrierError`, once it was needed.
    broken_barrier_error,
    /// The exception of the name.
    stale_handle,
    /// The exception of the name.
    region_corrupt,
    /// The exception of the name.
    owner_died,
    /// The exception of the name.
    not_shareable,
    /// The exception of the name.
    interpreter_terminated,
    /// `multigil._custom_queue`, once it was needed.
    custom_queue,
    /// `multigil._core.attach`.
    attach,
    /// `_pickle.Pickler`.
    pickler,
    /// `_pickle.loads`.
    loads,
}

/// What one interpreter has.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) region: &'static Region,
    /// Its name in every word that it owns.
    pub(crate) me: PeerId,
    pub(crate) objects: Objects,
    /// The queues and locks that exist as objects here.
    pub(crate) known: Mutex<Known>,
    /// A pickler that is not in use: making one costs as much as pickling a small message.
    pub(crate) idle_pickler: Mutex<Option<Pickler>>,
}

// SAFETY: whoever uses a state is attached to its interpreter, which keeps others out.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

/// CPython's ids of the interpreters that take part, by their numbers.
static INTERPRETERS: Mutex<BTreeMap<u16, i64>> = Mutex::new(BTreeMap::new());

/// CPython's id of the interpreter that takes part by that name; -1 if it has ended.
pub(crate) fn interpreter_id(peer: PeerId) -> i64 {
    INTERPRETERS.lock().get(&peer.get()).copied().unwrap_or(-1)
}

/// The region of this process: the one that it was started with, or else one of its own.
fn region() -> core::result::Result<&'static Region, RegionError> {
    let Ok(inherited) = std::env::var(REGION) else { return Region::of_this_process() };
    let place = inherited.split_once(':').and_then(|(number, descriptor)| {
        let (number, descriptor) = (number.parse().ok()?, descriptor.parse().ok()?);
        Some((number, Location::Process { process: std::process::id(), descriptor }))
    });
    let Some((number, location)) = place else {
        return Err(RegionError::NoRegion("MULTIGIL_REGION does not name one"));
    };
    Region::join(number, &location)
}

/// The variable of the environment by which a process is told its region: `number:descriptor`.
const REGION: &str = "MULTIGIL_REGION";

impl State {
    /// The state of a module that is being loaded.
    pub(crate) unsafe fn new() -> Result<State> {
        let region = match region() {
            Ok(region) => region,
            Err(error) => return crate::errors::region(error),
        };
        let Some(me) = region.register() else {
            return raise(ffi::PyExc_RuntimeError, "4095 interpreters have multigil loaded: no more can");
        };
        INTERPRETERS.lock().insert(me.get(), ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()));
        Ok(State { region, me, objects: Objects::new(), known: Mutex::default(), idle_pickler: Mutex::new(None) })
    }

    /// Makes the module's types and exceptions, and imports what it calls.
    pub(crate) unsafe fn fill(&self, module: *mut ffi::PyObject) -> Result<()> {
        let objects = &self.objects;
        let set = |slot: &Cell<*mut ffi::PyObject>, value: Owned| slot.set(value.into_raw());
        let add = |name: &CStr, slot: &Cell<*mut ffi::PyObject>, value: Owned| {
            let status = check(ffi::PyModule_AddObjectRef(module, name.as_ptr(), value.as_ptr()));
            slot.set(value.into_raw());
            status
        };
        let exception = |name: &CStr, doc: &CStr, bases: &[*mut ffi::PyObject]| {
            let tuple = Owned::from_raw(ffi::PyTuple_New(bases.len() as ffi::Py_ssize_t))?;
            for (place, base) in bases.iter().enumerate() {
                ffi::PyTuple_SetItem(tuple.as_ptr(), place as ffi::Py_ssize_t, Owned::from_borrowed(*base).into_raw());
            }
            Owned::from_raw(ffi::PyErr_NewExceptionWithDoc(name.as_ptr(), doc.as_ptr(), tuple.as_ptr(), null_mut()))
        };

        let base = exception(
            c"multigil.MultigilError",
            c"Base of the errors that only multigil raises.",
            &[ffi::PyExc_Exception],
        )?;
        check(ffi::PyModule_AddObjectRef(module, c"MultigilError".as_ptr(), base.as_ptr()))?;
        let stale_handle = exception(
            c"multigil.StaleHandle",
            c"A pickled queue or lock was unpickled after the last handle to it had gone.",
            &[base.as_ptr(), ffi::PyExc_ValueError],
        )?;
        add(c"StaleHandle", &objects.stale_handle, stale_handle)?;
        let region_corrupt = exception(
            c"multigil.RegionCorrupt",
            c"Shared memory holds something that no version of multigil wrote.",
            &[base.as_ptr(), ffi::PyExc_ValueError],
        )?;
        add(c"RegionCorrupt", &objects.region_corrupt, region_corrupt)?;
        let owner_died = exception(
            c"multigil.OwnerDied",
            c"The process that held a lock died. What the lock guards may be half changed; the lock can be taken again.",
            &[base.as_ptr(), ffi::PyExc_OSError],
        )?;
        add(c"OwnerDied", &objects.owner_died, owner_died)?;
        let not_shareable = exception(
            c"multigil.NotShareable",
            c"An object that only its own interpreter can use was to be sent to another one.",
            &[base.as_ptr(), ffi::PyExc_TypeError],
        )?;
        add(c"NotShareable", &objects.not_shareable, not_shareable)?;
        let terminated = exception(
            c"multigil.InterpreterTerminated",
            c"Raised inside an interpreter that terminate() stops, wherever it runs or waits.",
            &[ffi::PyExc_BaseException],
        )?;
        add(c"InterpreterTerminated", &objects.interpreter_terminated, terminated)?;

        add(c"Empty", &objects.empty, import(c"_queue")?.attribute(c"Empty")?)?;
        if cfg!(not(Py_3_13)) {
            // The standard library has it since 3.13.
            let doc = c"Raised when put/get with shut-down queue.";
            add(c"ShutDown", &objects.shut_down, exception(c"multigil.ShutDown", doc, &[ffi::PyExc_Exception])?)?;
        }

        let queue = queue::make_queue_type(module)?;
        let lifo_queue = queue::make_lifo_queue_type(module, &queue)?;
        let priority_queue = queue::make_priority_queue_type(module, &queue)?;
        add(c"Queue", &objects.queue_type, queue)?;
        add(c"LifoQueue", &objects.lifo_queue_type, lifo_queue)?;
        add(c"PriorityQueue", &objects.priority_queue_type, priority_queue)?;
        add(c"SimpleQueue", &objects.simple_queue_type, queue::make_simple_queue_type(module)?)?;
        add(c"Lock", &objects.lock_type, lock::make_type(module)?)?;
        add(c"RLock", &objects.rlock_type, rlock::make_type(module)?)?;
        add(c"Condition", &objects.condition_type, condition::make_type(module)?)?;
        add(c"Owner", &objects.owner_type, lock::make_owner_type()?)?;
        add(c"Event", &objects.event_type, event::make_type(module)?)?;
        let semaphore = semaphore::make_type(module)?;
        let bounded_semaphore = semaphore::make_bounded_type(module, &semaphore)?;
        add(c"Semaphore", &objects.semaphore_type, semaphore)?;
        add(c"BoundedSemaphore", &objects.bounded_semaphore_type, bounded_semaphore)?;
        add(c"Barrier", &objects.barrier_type, barrier::make_type(module)?)?;
        add(c"Value", &objects.value_type, value::make_type(module)?)?;
        add(c"Array", &objects.array_type, array::make_type(module)?)?;
        add(c"Memory", &objects.memory_type, memory::make_type(module)?)?;
        add(c"Subinterpreter", &objects.subinterpreter_type, interpreter::make_type(module)?)?;
        set(&objects.writer_type, crate::codec::make_writer_type(module)?);
        set(&objects.attach, Owned::from_raw(ffi::PyObject_GetAttrString(module, c"attach".as_ptr()))?);

        let pickle = import(c"_pickle")?;
        set(&objects.pickler, pickle.attribute(c"Pickler")?);
        set(&objects.loads, pickle.attribute(c"loads")?);

        let version = Owned::from_raw(ffi::PyUnicode_FromStringAndSize(
            env!("CARGO_PKG_VERSION").as_ptr().cast(),
            env!("CARGO_PKG_VERSION").len() as ffi::Py_ssize_t,
        ))?;
        check(ffi::PyModule_AddObjectRef(module, c"__version__".as_ptr(), version.as_ptr()))?;
        Ok(())
    }

    /// `queue.Full`.
    pub(crate) unsafe fn full(&self) -> Result<Owned> {
        self.imported(&self.objects.full, c"queue", c"Full")
    }

    /// `queue.ShutDown`.
    pub(crate) unsafe fn shut_down(&self) -> Result<Owned> {
        self.imported(&self.objects.shut_down, c"queue", c"ShutDown")
    }

    /// `threading.BrokenBarrierError`.
    pub(crate) unsafe fn broken_barrier_error(&self) -> Result<Owned> {
        self.imported(&self.objects.broken_barrier_error, c"threading", c"BrokenBarrierError")
    }

    /// `multigil._custom_queue`.
    pub(crate) unsafe fn custom_queue(&self) -> Result<Owned> {
        let slot = &self.objects.custom_queue;
        if slot.get().is_null() {
            slot.set(import(c"multigil._custom_queue")?.into_raw());
        }
        self.object(slot)
    }

    /// What is imported when it is asked for the first time.
    unsafe fn imported(&self, slot: &Cell<*mut ffi::PyObject>, module: &CStr, name: &CStr) -> Result<Owned> {
        if slot.get().is_null() {
            slot.set(import(module)?.attribute(name)?.into_raw());
        }
        self.object(slot)
    }

    pub(crate) unsafe fn traverse(&self, visit: ffi::visitproc, argument: *mut c_void) -> c_int {
        for object in self.objects.all() {
            if !object.get().is_null() {
                let status = visit(object.get(), argument);
                if status != 0 {
                    return status;
                }
            }
        }
        // Whoever holds the lock is in the middle of taking or leaving a pickler, and the collector does not run then.
        self.idle_pickler
            .try_lock()
            .as_deref()
            .and_then(Option::as_ref)
            .map_or(0, |idle| idle.traverse(visit, argument))
    }

    pub(crate) unsafe fn clear(&self) {
        drop(self.idle_pickler.lock().take());
        for object in self.objects.all() {
            let object = object.replace(null_mut());
            if !object.is_null() {
                ffi::Py_DECREF(object);
            }
        }
    }

    /// An object of the module, or an exception if the interpreter is at its end.
    #[inline(always)]
    pub(crate) unsafe fn object(&self, slot: &Cell<*mut ffi::PyObject>) -> Result<Owned> {
        if slot.get().is_null() {
            ffi::PyErr_SetString(ffi::PyExc_RuntimeError, c"the interpreter is at its end".as_ptr());
            return Err(Raised);
        }
        Ok(Owned::from_borrowed(slot.get()))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: the module's last reference is dropped attached.
        unsafe { self.clear() };
        INTERPRETERS.lock().remove(&self.me.get());
        self.region.leave(self.me);
    }
}
