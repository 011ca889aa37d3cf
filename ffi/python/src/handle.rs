//! What all shared types have in common: one object for each id in an interpreter, pickling by id, staying alive in messages.
//!
//! Pickling an object gives its id, which keeps nothing alive. Inside a `put` that would not do: the sender may drop
//! the object before anybody unpickles it. So a `put` collects what is pickled on its thread ([`Pins`]), adds a
//! reference for each to the message, and the message gives the references back when it is decoded or dropped.

use core::cell::{Cell, RefCell};
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use multigil::error::OutOfMemory;
use multigil::event::Watchable;
use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::lock::Owner;
use multigil::object::{
    Handle, Location, Reference, Region, Shared, SharedBarrier, SharedCondition, SharedFlag, SharedLock, SharedMemory,
    SharedRLock, SharedSemaphore, SharedState,
};
use multigil::ordered::{LifoQueue, PriorityQueue};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::alarm::{self, Alarm};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::{Objects, Place, State};
use crate::{errors, event, rlock};

/// An object that is a handle. All our shared types have this layout.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct HandleObject<T: SharedState> {
    base: ffi::PyObject,
    weak_references: *mut ffi::PyObject,
    /// A reference, of an `Arc`; null until the handle was made.
    state: *const State,
    /// An object of Python's that travels with this one, such as a condition's lock; null if there is none.
    companion: *mut ffi::PyObject,
    /// What the handle leads to; None if there is no handle.
    kind: Option<ObjectKind>,
    /// How many buffers of it are in use, if it counts them.
    views: ffi::Py_ssize_t,
    /// Set once somebody has watched it.
    watched: OnceLock<()>,
    /// Its `fileno()`, once somebody asked for it.
    alarm: OnceLock<Arc<Alarm>>,
    handle: Option<Handle<'static, T>>,
}

impl<T: SharedState> HandleObject<T> {
    /// What an object of any shared type is a handle of; None if it is one of Python's own queues, which has no handle.
    #[inline(always)]
    pub(crate) unsafe fn kind(object: *mut ffi::PyObject) -> Option<ObjectKind> {
        // The place does not depend on T.
        (*object.cast::<HandleObject<T>>()).kind
    }

    /// The state of the interpreter that an object belongs to.
    pub(crate) unsafe fn state(object: *mut ffi::PyObject) -> &'static State {
        &*(*object.cast::<HandleObject<T>>()).state
    }

    /// The interpreter's state and the handle of an object of this type that has one.
    #[inline(always)]
    pub(crate) unsafe fn of<'a>(object: *mut ffi::PyObject) -> (&'static State, &'a Handle<'static, T>) {
        let this = &*object.cast::<HandleObject<T>>();
        // `wrap` sets both, and is the only maker of objects that are of a kind.
        (&*this.state, this.handle.as_ref().unwrap_unchecked())
    }

    /// What travels with the object.
    pub(crate) unsafe fn companion(object: *mut ffi::PyObject) -> Option<Owned> {
        let companion = (*object.cast::<HandleObject<T>>()).companion;
        (!companion.is_null()).then(|| Owned::from_borrowed(companion))
    }

    /// How many buffers of the object are in use.
    pub(crate) unsafe fn views(object: *mut ffi::PyObject) -> *mut ffi::Py_ssize_t {
        &raw mut (*object.cast::<HandleObject<T>>()).views
    }

    /// What makes the object's `fileno()` readable.
    #[inline(always)]
    pub(crate) unsafe fn alarm<'a>(object: *mut ffi::PyObject) -> &'a OnceLock<Arc<Alarm>> {
        &*Self::alarm_slot(object)
    }

    /// Where that is.
    pub(crate) unsafe fn alarm_slot(object: *mut ffi::PyObject) -> *mut OnceLock<Arc<Alarm>> {
        &raw mut (*object.cast::<HandleObject<T>>()).alarm
    }

    /// Notes that somebody watches the object.
    pub(crate) unsafe fn set_watched(object: *mut ffi::PyObject) {
        let watched = &(*object.cast::<HandleObject<T>>()).watched;
        let _ = watched.set(());
    }

    /// Whether somebody has ever done so.
    unsafe fn is_watched(object: *mut ffi::PyObject) -> bool {
        let watched = &(*object.cast::<HandleObject<T>>()).watched;
        watched.get().is_some()
    }

    /// Changes what travels with the object.
    pub(crate) unsafe fn set_companion(object: *mut ffi::PyObject, companion: Option<Owned>) {
        let new = companion.map_or(null_mut(), Owned::into_raw);
        let old = core::ptr::replace(&raw mut (*object.cast::<HandleObject<T>>()).companion, new);
        if !old.is_null() {
            ffi::Py_DECREF(old);
        }
    }
}

/// The objects that are handles here. The references are borrowed: an object leaves before it dies.
#[derive(Debug, Default)]
pub(crate) struct Known {
    by_name: HashMap<Name, *mut ffi::PyObject>,
    pub(crate) objects: HashSet<*mut ffi::PyObject>,
}

/// An object's name in all regions of a process: the region's number, and its id there.
type Name = (u64, u32, u32);

fn name(region: &Region, id: ObjectId) -> Name {
    (region.number(), id.index, id.generation)
}

/// Whether somebody has died who may have stood in the way of an attempt that does not wait: it is worth another one.
#[cold]
pub(crate) fn finds_dead<T: SharedState>(handle: &Handle<'static, T>) -> bool {
    handle.region().look_for_deaths(handle.owner()) > 0
}

/// Makes the object of a new handle, with what travels with it.
pub(crate) unsafe fn wrap<T: SharedState>(
    state: &'static State,
    class: *mut ffi::PyTypeObject,
    handle: Handle<'static, T>,
    companion: Option<Owned>,
) -> Result<Owned> {
    let name = name(handle.region(), handle.id());
    let object = make(state, class, Some(handle), companion)?;
    let mut known = state.known.lock();
    known.by_name.insert(name, object.as_ptr());
    known.objects.insert(object.as_ptr());
    drop(known);
    Ok(object)
}

/// Makes the object of what the engine was asked to make, or raises that there is no memory for it.
pub(crate) unsafe fn wrap_made<T: SharedState>(
    state: &'static State,
    class: *mut ffi::PyTypeObject,
    made: core::result::Result<Handle<'static, T>, OutOfMemory>,
) -> Result<Owned> {
    match made {
        Ok(handle) => wrap(state, class, handle, None),
        Err(error) => errors::out_of_memory(error),
    }
}

/// `tp_new` of types whose arguments are their `__init__`'s business: a subclass may have others.
pub(crate) unsafe extern "C" fn new<T>(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject
where
    Shared<T>: SharedState,
{
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        let place = state.here();
        wrap_made(state, class, place.region.create_shared::<T>(place.me, |_| {}))
    })
}

/// Makes an object of a shared type that is no handle.
pub(crate) unsafe fn wrap_nothing<T: SharedState>(
    state: &'static State,
    class: *mut ffi::PyTypeObject,
) -> Result<Owned> {
    make::<T>(state, class, None, None)
}

unsafe fn make<T: SharedState>(
    state: &'static State,
    class: *mut ffi::PyTypeObject,
    handle: Option<Handle<'static, T>>,
    companion: Option<Owned>,
) -> Result<Owned> {
    let allocate = (*class).tp_alloc.unwrap_unchecked(); // every type has it
    let object = Owned::from_raw(allocate(class, 0))?;
    let this = object.as_ptr().cast::<HandleObject<T>>();
    (&raw mut (*this).weak_references).write(null_mut());
    Arc::increment_strong_count(state);
    (&raw mut (*this).state).write(state);
    if let Some(handle) = &handle {
        state.hold(place(handle));
    }
    (&raw mut (*this).companion).write(companion.map_or(null_mut(), Owned::into_raw));
    (&raw mut (*this).views).write(0);
    (&raw mut (*this).watched).write(OnceLock::new());
    (&raw mut (*this).alarm).write(OnceLock::new());
    (&raw mut (*this).kind).write(handle.as_ref().map(|_| T::KIND));
    (&raw mut (*this).handle).write(handle);
    Ok(object)
}

/// `tp_dealloc` of the shared types.
pub(crate) unsafe extern "C" fn deallocate<T: SharedState>(object: *mut ffi::PyObject) {
    let this = object.cast::<HandleObject<T>>();
    let class = ffi::Py_TYPE(object);
    ffi::PyObject_GC_UnTrack(object.cast());
    let place = (*this).handle.as_ref().map(place);
    if let Some(handle) = &(*this).handle {
        // First of all: from here on, nobody finds the dying object by its id.
        let mut known = (*(*this).state).known.lock();
        let name = name(handle.region(), handle.id());
        if known.by_name.get(&name) == Some(&object) {
            known.by_name.remove(&name);
        }
        known.objects.remove(&object);
    }
    if !(*this).weak_references.is_null() {
        ffi::PyObject_ClearWeakRefs(object);
    }
    if let Some(place) = place.filter(|_| HandleObject::<T>::is_watched(object)) {
        alarm::object_goes(&*(*this).state, object, place);
    }
    (&raw mut (*this).alarm).drop_in_place();
    (&raw mut (*this).handle).drop_in_place();
    clear::<T>(object);
    if let Some(place) = place {
        (*(*this).state).let_go(place);
    }
    if !(*this).state.is_null() {
        Arc::decrement_strong_count((*this).state);
    }
    let free = (*class).tp_free.unwrap_unchecked(); // every type has it
    free(object.cast());
    ffi::Py_DECREF(class.cast());
}

/// `tp_traverse` of the shared types.
unsafe extern "C" fn traverse<T: SharedState>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    let companion = (*object.cast::<HandleObject<T>>()).companion;
    let status = if companion.is_null() { 0 } else { visit(companion, argument) };
    if status == 0 { py::traverse_type(object, visit, argument) } else { status }
}

/// `tp_clear` of the shared types.
unsafe extern "C" fn clear<T: SharedState>(object: *mut ffi::PyObject) -> c_int {
    HandleObject::<T>::set_companion(object, None);
    0
}

/// The member that tells CPython where weak references are.
pub(crate) const fn weak_reference_member() -> ffi::PyMemberDef {
    ffi::PyMemberDef {
        name: c"__weaklistoffset__".as_ptr(),
        type_code: ffi::Py_T_PYSSIZET,
        offset: core::mem::offset_of!(HandleObject<Queue>, weak_references) as ffi::Py_ssize_t,
        flags: ffi::Py_READONLY,
        doc: core::ptr::null(),
    }
}
const _: () = assert!(
    core::mem::offset_of!(HandleObject<Queue>, weak_references)
        == core::mem::offset_of!(HandleObject<SharedLock>, weak_references)
);

thread_local! {
    /// What the messages that this thread is pickling keep alive, innermost last.
    static PINS: RefCell<Vec<Pins>> = const { RefCell::new(Vec::new()) };
}

/// What a message will refer to: objects of its region. They are kept alive until it does.
#[derive(Debug)]
pub(crate) struct Pins {
    region: u64,
    noted: Vec<(ObjectId, ObjectKind, Owned)>,
}

impl Pins {
    /// Collects what is pickled while `body` runs, for a message in a region.
    pub(crate) unsafe fn collect<T>(region: &Region, body: impl FnOnce() -> Result<T>) -> Result<(T, Pins)> {
        let pins = Pins { region: region.number(), noted: Vec::new() };
        PINS.with(|all| all.borrow_mut().push(pins));
        let result = body();
        let pins = PINS.with(|all| all.borrow_mut().pop()).expect("it was just pushed");
        Ok((result?, pins))
    }

    /// The names of all of them.
    pub(crate) fn names(&self) -> Vec<(ObjectId, ObjectKind)> {
        self.noted.iter().map(|(id, kind, _)| (*id, *kind)).collect()
    }

    /// Notes an object that is being pickled, if it is for a message of the same region. One of another region has to be
    /// kept alive by somebody else until it is unpickled.
    unsafe fn add<T: SharedState>(handle: &Handle<'static, T>, object: *mut ffi::PyObject) {
        PINS.with(|all| {
            if let Some(Pins { region, noted }) = all.borrow_mut().last_mut()
                && *region == handle.region().number()
                && noted.iter().all(|(known, ..)| *known != handle.id())
            {
                noted.push((handle.id(), T::KIND, Owned::from_borrowed(object)));
            }
        });
    }
}

/// One of the shared types.
struct SharedType {
    /// Its name in pickles, and so part of their format.
    number: i64,
    class: fn(&Objects) -> &Cell<*mut ffi::PyObject>,
    find: unsafe fn(&'static State, Place, ObjectId, &SharedType, Attachment) -> Result<Owned>,
    /// What `wait_any` waits for; None if it does not wait for such objects.
    watch: Option<Watch>,
    whereabouts: unsafe fn(*mut ffi::PyObject) -> (Place, ObjectId, ObjectKind),
    take_over: unsafe fn(*mut ffi::PyObject, PeerId, Reference),
}

/// Gives what is ready when the calling thread's wait for an object would end. It is not used after the object's end.
pub(crate) type Watch = unsafe fn(*mut ffi::PyObject) -> Watched;

/// Something to wait for, without where.
pub(crate) type Thing = Box<dyn Watchable + Send>;

/// Something to wait for, and where it is.
pub(crate) struct Watched {
    pub(crate) thing: Thing,
    /// None is the process's own region.
    pub(crate) place: Option<Place>,
}

const fn shared_type<T: SharedState>(number: i64, class: fn(&Objects) -> &Cell<*mut ffi::PyObject>) -> SharedType {
    let (whereabouts, take_over) = (whereabouts::<T>, take_over::<T>);
    SharedType { number, class, find: find::<T, true>, watch: None, whereabouts, take_over }
}

impl SharedType {
    /// Unpickling gives a new object each time.
    const fn never_the_same<T: SharedState>(self) -> SharedType {
        SharedType { find: find::<T, false>, ..self }
    }

    const fn watched_as(self, watch: Watch) -> SharedType {
        SharedType { watch: Some(watch), ..self }
    }
}

/// A [`Watch`] of objects that are ready for all alike.
unsafe fn itself<T: SharedState + Watchable + Sync>(object: *mut ffi::PyObject) -> Watched {
    let handle = HandleObject::<T>::of(object).1;
    // In the region's memory, not in Python's.
    let thing: &'static T = handle;
    Watched { thing: Box::new(thing), place: Some(place(handle)) }
}

/// All of them. A type stands before those that it is derived from.
static TYPES: &[SharedType] = &[
    shared_type::<LifoQueue>(10, |objects| &objects.lifo_queue_type).watched_as(itself::<LifoQueue>),
    shared_type::<PriorityQueue>(11, |objects| &objects.priority_queue_type).watched_as(itself::<PriorityQueue>),
    shared_type::<Queue>(1, |objects| &objects.queue_type).watched_as(itself::<Queue>),
    shared_type::<Queue>(2, |objects| &objects.simple_queue_type).watched_as(itself::<Queue>),
    shared_type::<SharedLock>(LOCK as i64, |objects| &objects.lock_type).watched_as(itself::<SharedLock>),
    shared_type::<SharedRLock>(RLOCK as i64, |objects| &objects.rlock_type).watched_as(rlock::watch),
    shared_type::<SharedCondition>(5, |objects| &objects.condition_type),
    shared_type::<SharedFlag>(6, |objects| &objects.event_type).watched_as(event::watch),
    shared_type::<SharedSemaphore>(8, |objects| &objects.bounded_semaphore_type).watched_as(itself::<SharedSemaphore>),
    shared_type::<SharedSemaphore>(7, |objects| &objects.semaphore_type).watched_as(itself::<SharedSemaphore>),
    shared_type::<SharedBarrier>(9, |objects| &objects.barrier_type),
    shared_type::<SharedMemory>(12, |objects| &objects.value_type),
    shared_type::<SharedMemory>(13, |objects| &objects.array_type),
    shared_type::<SharedMemory>(14, |objects| &objects.memory_type).never_the_same::<SharedMemory>(),
];

/// The shared type that a class is derived from, if it is.
unsafe fn type_of_class(state: &State, class: *mut ffi::PyTypeObject) -> Option<&'static SharedType> {
    TYPES.iter().find(|known| {
        let base = (known.class)(&state.objects).get();
        !base.is_null() && ffi::PyType_IsSubtype(class, base.cast()) != 0
    })
}

/// The shared type of an object, if it has one and is a handle.
unsafe fn type_of(state: &State, object: *mut ffi::PyObject) -> Option<&'static SharedType> {
    let known = type_of_class(state, ffi::Py_TYPE(object))?;
    HandleObject::<Queue>::kind(object).is_some().then_some(known)
}

unsafe fn whereabouts<T: SharedState>(object: *mut ffi::PyObject) -> (Place, ObjectId, ObjectKind) {
    let handle = HandleObject::<T>::of(object).1;
    (place(handle), handle.id(), T::KIND)
}

unsafe fn take_over<T: SharedState>(object: *mut ffi::PyObject, me: PeerId, reference: Reference) {
    if let Some(handle) = &mut (*object.cast::<HandleObject<T>>()).handle {
        handle.take_over(me, reference);
    }
}

/// What travels with an object of a shared type.
pub(crate) unsafe fn companion(object: *mut ffi::PyObject) -> Option<Owned> {
    HandleObject::<Queue>::companion(object)
}

/// What a shared type is called in pickles, and among the names of a region.
pub(crate) unsafe fn number_of_class(state: &State, class: *mut ffi::PyObject) -> Result<u32> {
    match TYPES.iter().find(|known| (known.class)(&state.objects).get() == class) {
        Some(known) => Ok(known.number as u32),
        None => raise(ffi::PyExc_TypeError, "it has to be one of the shared types"),
    }
}

/// The class of that number.
pub(crate) unsafe fn class_of_number(state: &State, number: u32) -> Result<Option<Owned>> {
    let known = TYPES.iter().find(|known| known.number == i64::from(number));
    known.map(|known| state.object((known.class)(&state.objects))).transpose()
}

/// The object of an id, of the shared type of that number.
pub(crate) unsafe fn attach_as(
    state: &'static State,
    place: Place,
    number: u32,
    id: ObjectId,
    companion: Option<Owned>,
) -> Result<Owned> {
    let companion = companion.as_ref().map_or(null_mut(), Owned::as_ptr);
    match TYPES.iter().find(|known| known.number == i64::from(number)) {
        Some(known) => (known.find)(state, place, id, known, Attachment { class: null_mut(), companion }),
        None => errors::attach(state, multigil::error::AttachError::Corrupt),
    }
}

/// The lock of an id, of whichever kind it is.
pub(crate) unsafe fn attach_lock(state: &'static State, place: Place, id: ObjectId) -> Result<Owned> {
    let number = if place.region.attach::<SharedRLock>(id, place.me).is_ok() { RLOCK } else { LOCK };
    attach_as(state, place, number, id, None)
}

const LOCK: u32 = 3;
const RLOCK: u32 = 4;

/// Where the object is that a handle leads to.
pub(crate) unsafe fn whereabouts_of(
    state: &State,
    object: *mut ffi::PyObject,
) -> Option<(Place, ObjectId, ObjectKind)> {
    Some((type_of(state, object)?.whereabouts)(object))
}

/// Makes an object, of which this is a forked child's copy, a handle of its own.
pub(crate) unsafe fn become_own(state: &State, object: *mut ffi::PyObject, me: PeerId, reference: Reference) {
    if let Some(known) = type_of(state, object) {
        (known.take_over)(object, me, reference);
    }
}

/// In a forked child: leads the object to a new one, which nobody else has. The one before is kept, since threads may
/// have been in its methods.
pub(crate) unsafe fn renew<T: SharedState>(
    object: *mut ffi::PyObject,
    made: core::result::Result<Handle<'static, T>, OutOfMemory>,
) -> Result<()> {
    let fresh = made.or_else(|error| errors::out_of_memory(error))?;
    let this = &mut *object.cast::<HandleObject<T>>();
    let mut known = (*this.state).known.lock();
    if let Some(old) = this.handle.replace(fresh) {
        known.by_name.remove(&name(old.region(), old.id()));
        core::mem::forget(old);
    }
    if let Some(new) = &this.handle {
        known.by_name.insert(name(new.region(), new.id()), object);
    }
    Ok(())
}

/// Whether other interpreters can have an object too, as the same one.
pub(crate) unsafe fn is_shared(state: &State, object: *mut ffi::PyObject) -> bool {
    type_of(state, object).is_some()
}

/// Whether an object is of a shared type, be it a handle or not.
pub(crate) unsafe fn is_of_shared_type(state: &State, object: *mut ffi::PyObject) -> bool {
    type_of_class(state, ffi::Py_TYPE(object)).is_some()
}

/// How `wait_any` waits for an object, if it is a shared one that can be waited for.
pub(crate) unsafe fn watch_of(state: &State, object: *mut ffi::PyObject) -> Option<Watch> {
    type_of(state, object)?.watch
}

/// What a pickle has beside the id; either may be null.
#[derive(Clone, Copy)]
struct Attachment {
    class: *mut ffi::PyObject,
    companion: *mut ffi::PyObject,
}

/// `__reduce__` of the shared types: `attach(kind, region, location, index, generation, class, companion)`, the last two
/// only if there is anything to say.
pub(crate) unsafe extern "C" fn reduce<T: SharedState>(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| reduced::<T>(object, HandleObject::<T>::companion(object)))
}

/// What `__reduce__` gives.
pub(crate) unsafe fn reduced<T: SharedState>(object: *mut ffi::PyObject, companion: Option<Owned>) -> Result<Owned> {
    let (state, handle) = HandleObject::<T>::of(object);
    let class = ffi::Py_TYPE(object).cast::<ffi::PyObject>();
    let Some(kind) = type_of(state, object) else {
        return raise(ffi::PyExc_RuntimeError, "the interpreter is at its end");
    };
    let id = handle.id();
    Pins::add(handle, object);
    let attach = state.object(&state.objects.attach)?;
    let (attach, region) = (attach.as_ptr(), handle.region().number());
    let location = py::text(&location_text(&handle.region().location()))?;
    let location = location.as_ptr();
    let class = if (kind.class)(&state.objects).get() == class { ffi::Py_None() } else { class };
    Owned::from_raw(match companion {
        Some(companion) => ffi::Py_BuildValue(
            c"O(LKOIIOO)".as_ptr(),
            attach,
            kind.number,
            region,
            location,
            id.index,
            id.generation,
            class,
            companion.as_ptr(),
        ),
        None if class == ffi::Py_None() => {
            ffi::Py_BuildValue(c"O(LKOII)".as_ptr(), attach, kind.number, region, location, id.index, id.generation)
        }
        None => {
            let format = c"O(LKOIIO)".as_ptr();
            ffi::Py_BuildValue(format, attach, kind.number, region, location, id.index, id.generation, class)
        }
    })
}

/// Where a region is, as pickles say it: `/name`, or `process:descriptor`.
pub(crate) fn location_text(location: &Location) -> String {
    match location {
        Location::Name(name) => format!("/{name}"),
        Location::Process { process, descriptor } => format!("{process}:{descriptor}"),
    }
}

/// What [`location_text`] wrote.
pub(crate) fn location_of_text(text: &str) -> Option<Location> {
    if let Some(name) = text.strip_prefix('/') {
        return Some(Location::Name(name.to_owned()));
    }
    let (process, descriptor) = text.split_once(':')?;
    Some(Location::Process { process: process.parse().ok()?, descriptor: descriptor.parse().ok()? })
}

/// `attach(kind, region, location, index, generation, class=None, companion=None)`: gives the object that the id names.
pub(crate) unsafe extern "C" fn attach(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let parameters = [c"kind", c"region", c"location", c"index", c"generation", c"class", c"companion"];
        let [kind, region, location, index, generation, class, companion] =
            Arguments::new(values, count, names).parse("attach", parameters, 5)?;
        let kind = number(kind)?;
        let region = ffi::PyLong_AsUnsignedLongLong(region);
        let (index, generation) = (number(index)?, number(generation)?);
        if !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        let location = location_of_text(py::utf8(location)?);
        let (Ok(index), Ok(generation)) = (u32::try_from(index), u32::try_from(generation)) else {
            return errors::attach(state, multigil::error::AttachError::Corrupt);
        };
        let id = ObjectId { index, generation };
        match TYPES.iter().find(|known| known.number == kind) {
            Some(known) => {
                let visit = state.visit(region, location.as_ref()).or_else(|error| errors::gone(state, error))?;
                (known.find)(state, visit.place, id, known, Attachment { class, companion })
            }
            None => errors::attach(state, multigil::error::AttachError::Corrupt),
        }
    })
}

unsafe fn number(object: *mut ffi::PyObject) -> Result<i64> {
    let number = ffi::PyLong_AsLongLong(object);
    if number == -1 && !ffi::PyErr_Occurred().is_null() { Err(Raised) } else { Ok(number) }
}

/// The object of an id: the one that exists here if there is to be only `ONE`, or a new one of the class and with the
/// companion that are given.
unsafe fn find<T: SharedState, const ONE: bool>(
    state: &'static State,
    place: Place,
    id: ObjectId,
    kind: &SharedType,
    attachment: Attachment,
) -> Result<Owned> {
    let base = state.object((kind.class)(&state.objects))?;
    let given = |object: *mut ffi::PyObject| (!object.is_null() && object != ffi::Py_None()).then_some(object);
    let class = given(attachment.class).unwrap_or(base.as_ptr());
    let companion = given(attachment.companion).map(|companion| Owned::from_borrowed(companion));
    let is_of_kind = |class| type_of_class(state, class).is_some_and(|known| known.number == kind.number);
    if ffi::PyType_Check(class) == 0 || !is_of_kind(class.cast()) {
        return raise(ffi::PyExc_TypeError, "attach() argument 'class' must be a subclass of what the id names");
    }
    // A free-threaded build could find an object whose last reference another thread is just dropping.
    if ONE
        && !cfg!(Py_GIL_DISABLED)
        && let Some(object) = state.known.lock().by_name.get(&name(place.region, id))
        && ffi::PyType_IsSubtype(ffi::Py_TYPE(*object), base.as_ptr().cast()) != 0
    {
        return Ok(Owned::from_borrowed(*object));
    }
    match place.region.attach::<T>(id, place.me) {
        Ok(handle) => wrap(state, class.cast(), handle, companion),
        Err(error) => errors::attach(state, error),
    }
}

/// Where an object is, and who has it there.
pub(crate) fn place<T: SharedState>(handle: &Handle<'static, T>) -> Place {
    Place { region: handle.region(), me: handle.owner() }
}

/// What the calling thread is called by in the words of an object.
#[inline(always)]
pub(crate) fn owner<T: SharedState>(handle: &Handle<'static, T>) -> Owner {
    this_thread(handle.owner())
}

thread_local! {
    // SAFETY: asking for the calling thread's id has no preconditions.
    static THREAD: Cell<u32> = Cell::new(unsafe { libc::gettid() } as u32);
}

/// In a forked child, whose thread has another id.
pub(crate) unsafe fn forget_thread() {
    THREAD.set(libc::gettid() as u32);
}

/// What a lock's owner is called by: the interpreter and the kernel's id of the thread.
#[inline(always)]
pub(crate) fn this_thread(me: PeerId) -> Owner {
    Owner { peer: me, thread: THREAD.get() }
}

/// `<module.Name at 0x…: status>`, as `threading` writes it.
pub(crate) unsafe fn repr(object: *mut ffi::PyObject, status: &str) -> Result<Owned> {
    let class = ffi::Py_TYPE(object);
    let name = Owned::from_raw(ffi::PyType_GetQualName(class))?;
    let module = Owned::from_raw(ffi::PyObject_GetAttrString(class.cast(), c"__module__".as_ptr()))?;
    let status = ffi::PyUnicode_FromStringAndSize(status.as_ptr().cast(), status.len() as ffi::Py_ssize_t);
    let status = Owned::from_raw(status)?;
    let format = c"<%S.%U at %p: %U>".as_ptr();
    Owned::from_raw(ffi::PyUnicode_FromFormat(format, module.as_ptr(), name.as_ptr(), object, status.as_ptr()))
}

/// Makes a shared type: everything that is the same for all of them, and what is given.
pub(crate) unsafe fn make_type<T: SharedState>(
    module: *mut ffi::PyObject,
    name: &'static CStr,
    doc: &'static CStr,
    new: ffi::newfunc,
    methods: *mut ffi::PyMethodDef,
    attributes: *mut ffi::PyGetSetDef,
    more: &[ffi::PyType_Slot],
) -> Result<Owned> {
    static MEMBERS: py::Shared<[ffi::PyMemberDef; 2]> = py::Shared([
        weak_reference_member(),
        ffi::PyMemberDef { name: core::ptr::null(), type_code: 0, offset: 0, flags: 0, doc: core::ptr::null() },
    ]);
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = vec![
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_new, new as *mut c_void),
        slot(ffi::Py_tp_dealloc, deallocate::<T> as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse::<T> as *mut c_void),
        slot(ffi::Py_tp_clear, clear::<T> as *mut c_void),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_members, (&raw const MEMBERS).cast_mut().cast()),
    ];
    if !attributes.is_null() {
        slots.push(slot(ffi::Py_tp_getset, attributes.cast()));
    }
    slots.extend_from_slice(more);
    slots.push(slot(0, null_mut()));
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size_of::<HandleObject<T>>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE | ffi::Py_TPFLAGS_HAVE_GC) as _,
        slots: slots.as_mut_ptr(),
    };
    Owned::from_raw(ffi::PyType_FromModuleAndSpec(module, &raw mut spec, null_mut()))
}

/// Makes a type that is derived from a shared one, from which it has all but its name and what is given.
pub(crate) unsafe fn make_subtype<T: SharedState>(
    module: *mut ffi::PyObject,
    name: &'static CStr,
    doc: &'static CStr,
    base: &Owned,
    more: &[ffi::PyType_Slot],
) -> Result<Owned> {
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let mut slots = vec![
        slot(ffi::Py_tp_doc, doc.as_ptr().cast_mut().cast()),
        // Not inherited by types that are made from a table.
        slot(ffi::Py_tp_dealloc, deallocate::<T> as *mut c_void),
    ];
    slots.extend_from_slice(more);
    slots.push(slot(0, null_mut()));
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: size_of::<HandleObject<T>>() as c_int,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE) as _,
        slots: slots.as_mut_ptr(),
    };
    Owned::from_raw(ffi::PyType_FromModuleAndSpec(module, &raw mut spec, base.as_ptr()))
}
