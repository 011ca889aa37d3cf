//! What one interpreter has: its number as a participant, its types, and the Python objects that it calls.

use core::cell::Cell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::collections::BTreeMap;
use std::os::fd::{FromRawFd, OwnedFd};

use multigil::error::RegionError;
use multigil::event::Lookout;
use multigil::layout::PeerId;
use multigil::object::{Location, Region, Watch};
use parking_lot::Mutex;
use pyo3::ffi;

use crate::alarm::Loops;
use crate::codec::Pickler;
use crate::handle::Known;
use crate::py::{Owned, Raised, Result, check, import, raise, utf8};
use crate::{alarm, array, barrier, condition, event, interpreter, lock, memory, queue, rlock, semaphore, value};

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
    /// The type of the name.
    alarm_type,
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
    authentication_error,
    /// The exception of the name.
    owner_died,
    /// The exception of the name.
    not_shareable,
    /// The exception of the name.
    interpreter_terminated,
    /// `multigil._custom_queue`, once it was needed.
    custom_queue,
    /// `multigil._asyncio`, once it was needed.
    asyncio,
    /// `multigil._core.attach`.
    attach,
    /// `_pickle.Pickler`.
    pickler,
    /// `_pickle.loads`.
    loads,
}

/// A region, and the name that an interpreter has in every word there that it owns.
pub(crate) type Place = Watch<'static>;

/// A region other than the process's own.
#[derive(Debug)]
struct Visited {
    place: Place,
    /// Objects that are in it, and others who need it.
    users: usize,
}

impl Visited {
    fn is(&self, place: Place) -> bool {
        core::ptr::eq(self.place.region, place.region)
    }
}

/// What one interpreter has.
#[derive(Debug)]
pub(crate) struct State {
    /// The process's own region; another name in it in a forked child.
    home: Cell<Place>,
    /// CPython's id of the interpreter.
    pub(crate) interpreter: i64,
    visited: Mutex<Vec<Visited>>,
    pub(crate) objects: Objects,
    /// The queues and locks that exist as objects here.
    pub(crate) known: Mutex<Known>,
    /// The event loops that await something.
    pub(crate) loops: Loops,
    /// A pickler that is not in use: making one costs as much as pickling a small message.
    pub(crate) idle_pickler: Mutex<Option<Pickler>>,
}

// SAFETY: whoever uses a state is attached to its interpreter, which keeps others out.
unsafe impl Send for State {}
// SAFETY: as above.
unsafe impl Sync for State {}

/// CPython's ids of this process's interpreters, by the region's number and their name in it.
static INTERPRETERS: Mutex<BTreeMap<(u64, u16), i64>> = Mutex::new(BTreeMap::new());

/// CPython's id of the interpreter that takes part by that name; -1 if it has ended or is another process's.
pub(crate) fn interpreter_id(region: &Region, peer: PeerId) -> i64 {
    INTERPRETERS.lock().get(&(region.number(), peer.get())).copied().unwrap_or(-1)
}

/// Takes part in a region that this process has joined.
fn register(region: &'static Region, interpreter: i64) -> core::result::Result<Place, RegionError> {
    let me = region.register().ok_or(RegionError::TooManyPeers)?;
    INTERPRETERS.lock().insert((region.number(), me.get()), interpreter);
    Ok(Place { region, me })
}

/// Ends taking part.
fn leave(place: Place) {
    INTERPRETERS.lock().remove(&(place.region.number(), place.me.get()));
    place.region.leave(place.me);
}

/// The environment variable that gives a process the region of the one that started it: `number:descriptor`.
const REGION_VARIABLE: &CStr = c"MULTIGIL_REGION";

/// What the variable says, which is removed: it is for no process that this one starts.
unsafe fn inherited() -> Result<Option<(u64, c_int)>> {
    if libc::getenv(REGION_VARIABLE.as_ptr()).is_null() {
        return Ok(None); // importing `os` takes time
    }
    let name = Owned::from_raw(ffi::PyUnicode_FromString(REGION_VARIABLE.as_ptr()))?;
    let value = import(c"os")?.attribute(c"environ")?.attribute(c"pop")?.call(&[name.as_ptr(), ffi::Py_None()])?;
    if value.as_ptr() == ffi::Py_None() {
        return Ok(None); // the program has removed it itself
    }
    let value = utf8(value.as_ptr())?;
    let parsed = value.split_once(':').and_then(|(number, descriptor)| {
        Some((number.parse().ok()?, descriptor.parse().ok().filter(|descriptor| *descriptor >= 0)?))
    });
    match parsed {
        Some(parsed) => Ok(Some(parsed)),
        None => raise(ffi::PyExc_ValueError, &format!("MULTIGIL_REGION is no number:descriptor: {value}")),
    }
}

/// Makes the region behind an inherited descriptor, which is closed, this process's own.
fn join_inherited(number: u64, descriptor: c_int) -> core::result::Result<&'static Region, RegionError> {
    let region = Region::join(number, &Location::Process { process: std::process::id(), descriptor })?;
    // SAFETY: it is this region's file, and it was passed to this process for this purpose.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
    Ok(region)
}

thread_local! {
    /// Where the thread makes shared objects, if that is not the process's own region.
    static HERE: Cell<Option<Place>> = const { Cell::new(None) };
}

/// Makes what `body` makes in another region.
pub(crate) fn make_in<T>(place: Place, body: impl FnOnce() -> T) -> T {
    let outer = HERE.replace(Some(place));
    let result = body();
    HERE.set(outer);
    result
}

/// All regions that an interpreter takes part in. They stay open meanwhile.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    state: &'a State,
    pub(crate) all: Vec<Place>,
}

impl Lookout for Places<'_> {
    fn look_out(&self) {
        self.all.iter().for_each(Lookout::look_out);
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        self.all.drain(..).for_each(|place| self.state.let_go(place));
    }
}

/// A region that stays open meanwhile.
#[derive(Debug)]
pub(crate) struct Visit {
    state: &'static State,
    pub(crate) place: Place,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.state.let_go(self.place);
    }
}

impl State {
    /// The state of a module that is being loaded.
    pub(crate) unsafe fn new() -> Result<State> {
        let region = match inherited()? {
            Some((number, descriptor)) => join_inherited(number, descriptor),
            None => Region::of_this_process(),
        };
        let region = match region {
            Ok(region) => region,
            Err(error) => return crate::errors::region(error),
        };
        let interpreter = ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get());
        let home = match register(region, interpreter) {
            Ok(home) => home,
            Err(error) => return crate::errors::region(error),
        };
        Ok(State {
            home: Cell::new(home),
            interpreter,
            visited: Mutex::default(),
            objects: Objects::new(),
            known: Mutex::default(),
            loops: Loops::default(),
            idle_pickler: Mutex::new(None),
        })
    }

    /// The process's own region.
    #[inline(always)]
    pub(crate) fn home(&self) -> Place {
        self.home.get()
    }

    /// Where the calling thread makes shared objects.
    pub(crate) fn here(&self) -> Place {
        HERE.get().unwrap_or(self.home())
    }

    /// Whether it is the process's own region.
    #[inline(always)]
    pub(crate) fn is_home(&self, region: &Region) -> bool {
        core::ptr::eq(region, self.home().region)
    }

    /// All regions that the interpreter takes part in.
    pub(crate) fn places(&self) -> Places<'_> {
        let mut all = vec![self.home()];
        for visited in self.visited.lock().iter_mut() {
            visited.users += 1;
            all.push(visited.place);
        }
        Places { state: self, all }
    }

    /// The region of that number, which is joined at that place if need be.
    pub(crate) fn visit(
        &'static self,
        number: u64,
        location: Option<&Location>,
    ) -> core::result::Result<Visit, RegionError> {
        if number == self.home().region.number() {
            return Ok(Visit { state: self, place: self.home() });
        }
        let mut visited = self.visited.lock();
        let place = match visited.iter_mut().find(|visited| visited.place.region.number() == number) {
            Some(known) => {
                known.users += 1;
                known.place
            }
            None => {
                let location = location.ok_or(RegionError::NoRegion("nobody here has it open"))?;
                self.enter(&mut visited, Region::join(number, location)?)?
            }
        };
        Ok(Visit { state: self, place })
    }

    /// Keeps a region open that was just [kept](Region::keep) for it, until it is [let go](State::let_go). Gives its number.
    pub(crate) fn keep(&self, region: &'static Region) -> core::result::Result<u64, RegionError> {
        let mut visited = self.visited.lock();
        let known = visited.iter_mut().find(|visited| core::ptr::eq(visited.place.region, region));
        if let Some(known) = known {
            known.users += 1;
            // SAFETY: there is the other use that the interpreter has of it.
            unsafe { Region::part(region) };
        } else {
            self.enter(&mut visited, region)?;
        }
        Ok(region.number())
    }

    /// Begins to take part in a region that was just joined for it.
    fn enter(&self, visited: &mut Vec<Visited>, region: &'static Region) -> core::result::Result<Place, RegionError> {
        match register(region, self.interpreter) {
            Ok(place) => {
                visited.push(Visited { place, users: 1 });
                Ok(place)
            }
            Err(error) => {
                // SAFETY: nobody has the reference any more.
                unsafe { Region::part(region) };
                Err(error)
            }
        }
    }

    /// Takes part as another one, in a forked child: `name` gives its name in each region.
    pub(crate) fn rename(&self, name: impl Fn(Place) -> Place) {
        let rename = |place| {
            let renamed: Place = name(place);
            let mut interpreters = INTERPRETERS.lock();
            interpreters.remove(&(place.region.number(), place.me.get()));
            interpreters.insert((renamed.region.number(), renamed.me.get()), self.interpreter);
            renamed
        };
        self.home.set(rename(self.home()));
        self.visited.lock().iter_mut().for_each(|visited| visited.place = rename(visited.place));
    }

    /// Keeps a region open, which is so already, until it is [let go](State::let_go).
    pub(crate) fn hold(&self, place: Place) {
        if self.is_home(place.region) {
            return;
        }
        if let Some(known) = self.visited.lock().iter_mut().find(|visited| visited.is(place)) {
            known.users += 1;
        }
    }

    /// The end of a use of a region. With the last one, the interpreter leaves.
    pub(crate) fn let_go(&self, place: Place) {
        if self.is_home(place.region) {
            return;
        }
        let mut visited = self.visited.lock();
        let Some(at) = visited.iter().position(|visited| visited.is(place)) else { return };
        visited[at].users -= 1;
        if visited[at].users == 0 {
            visited.swap_remove(at);
            leave(place);
            // SAFETY: whatever uses the region is counted as a user.
            unsafe { Region::part(place.region) };
        }
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
        let authentication_error = exception(
            c"multigil.AuthenticationError",
            c"A message in a region with a key was made or changed by somebody without the key.",
            &[base.as_ptr(), ffi::PyExc_ValueError],
        )?;
        add(c"AuthenticationError", &objects.authentication_error, authentication_error)?;
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
        add(c"Alarm", &objects.alarm_type, alarm::make_type(module)?)?;
        set(&objects.writer_type, crate::codec::make_writer_type(module)?);
        set(&objects.attach, Owned::from_raw(ffi::PyObject_GetAttrString(module, c"attach".as_ptr()))?);

        if self.interpreter == 0 {
            crate::fork::register(module)?;
        }
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

    /// `multigil._asyncio`.
    pub(crate) unsafe fn asyncio(&self) -> Result<Owned> {
        let slot = &self.objects.asyncio;
        if slot.get().is_null() {
            slot.set(import(c"multigil._asyncio")?.into_raw());
        }
        self.object(slot)
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
        for Visited { place, .. } in self.visited.get_mut().drain(..) {
            leave(place);
            // SAFETY: the objects that are in it have a reference to this state, so there are none.
            unsafe { Region::part(place.region) };
        }
        leave(self.home());
    }
}
