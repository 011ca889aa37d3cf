//! What queues and locks share: one object for each id in an interpreter, pickling by id, staying alive in messages.
//!
//! Pickling an object gives its id, which keeps nothing alive. Inside a `put` that would not do: the sender may drop
//! the object before anybody unpickles it. So a `put` collects what is pickled on its thread ([`Pins`]), adds a
//! reference for each to the message, and the message gives the references back when it is decoded or dropped.

use core::cell::RefCell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::collections::HashMap;
use std::sync::Arc;

use multigil::layout::{ObjectId, ObjectKind};
use multigil::object::{Handle, Region, SharedLock, SharedState};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::errors;
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;

/// An object that is a handle. All our shared types have this layout.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct HandleObject<T: SharedState> {
    base: ffi::PyObject,
    weak_references: *mut ffi::PyObject,
    /// A reference, of an `Arc`; null until the handle was made.
    state: *const State,
    handle: Option<Handle<'static, T>>,
}

impl<T: SharedState> HandleObject<T> {
    /// The interpreter's state and the handle of an object of this type.
    #[inline(always)]
    pub(crate) unsafe fn of<'a>(object: *mut ffi::PyObject) -> (&'static State, &'a Handle<'static, T>) {
        let this = &*object.cast::<HandleObject<T>>();
        // `wrap`, which sets both, is the only maker of such objects.
        (&*this.state, this.handle.as_ref().unwrap_unchecked())
    }
}

/// The objects that are handles here, by id. The references are borrowed: an object leaves before it dies.
#[derive(Debug, Default)]
pub(crate) struct Known(HashMap<(u32, u32), *mut ffi::PyObject>);

fn key(id: ObjectId) -> (u32, u32) {
    (id.index, id.generation)
}

/// Makes the object of a new handle.
pub(crate) unsafe fn wrap<T: SharedState>(
    state: &'static State,
    class: *mut ffi::PyTypeObject,
    handle: Handle<'static, T>,
) -> Result<Owned> {
    let allocate = (*class).tp_alloc.unwrap_unchecked(); // every type has it
    let object = Owned::from_raw(allocate(class, 0))?;
    let this = object.as_ptr().cast::<HandleObject<T>>();
    let id = handle.id();
    (&raw mut (*this).weak_references).write(null_mut());
    Arc::increment_strong_count(state);
    (&raw mut (*this).state).write(state);
    (&raw mut (*this).handle).write(Some(handle));
    state.known.lock().0.insert(key(id), object.as_ptr());
    Ok(object)
}

/// `tp_dealloc` of the shared types.
pub(crate) unsafe extern "C" fn deallocate<T: SharedState>(object: *mut ffi::PyObject) {
    let this = object.cast::<HandleObject<T>>();
    let class = ffi::Py_TYPE(object);
    ffi::PyObject_GC_UnTrack(object.cast());
    if let Some(handle) = &(*this).handle {
        // First of all: from here on, nobody finds the dying object by its id.
        let mut known = (*(*this).state).known.lock();
        if known.0.get(&key(handle.id())) == Some(&object) {
            known.0.remove(&key(handle.id()));
        }
    }
    if !(*this).weak_references.is_null() {
        ffi::PyObject_ClearWeakRefs(object);
    }
    (&raw mut (*this).handle).drop_in_place();
    if !(*this).state.is_null() {
        Arc::decrement_strong_count((*this).state);
    }
    let free = (*class).tp_free.unwrap_unchecked(); // every type has it
    free(object.cast());
    ffi::Py_DECREF(class.cast());
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

/// The references that a message will hold.
#[derive(Debug, Default)]
pub(crate) struct Pins(Vec<ObjectId>);

impl Pins {
    /// Collects what is pickled while `body` runs. On failure the references are given back.
    pub(crate) unsafe fn collect<T>(state: &State, body: impl FnOnce() -> Result<T>) -> Result<(T, Vec<ObjectId>)> {
        PINS.with(|pins| pins.borrow_mut().push(Pins::default()));
        let result = body();
        let ids = PINS.with(|pins| pins.borrow_mut().pop()).map(|pins| pins.0).unwrap_or_default();
        match result {
            Ok(value) => Ok((value, ids)),
            Err(Raised) => {
                release(state.region, state, &ids);
                Err(Raised)
            }
        }
    }

    /// Adds a reference to an object that is being pickled, if it is for a message.
    fn add(region: &Region, id: ObjectId, kind: ObjectKind) {
        PINS.with(|pins| {
            if let Some(Pins(ids)) = pins.borrow_mut().last_mut()
                && !ids.contains(&id)
                && region.pin(id, kind).is_ok()
            {
                ids.push(id);
            }
        });
    }
}

/// Gives references back that no message took over.
fn release(region: &Region, state: &State, ids: &[ObjectId]) {
    ids.iter().for_each(|id| region.release(*id, state.me));
}

/// The numbers by which pickles name the types. They are part of the pickles' format.
const QUEUE: i64 = 1;
const SIMPLE_QUEUE: i64 = 2;
const LOCK: i64 = 3;

/// `__reduce__` of the shared types: `attach(kind, region, index, generation[, class])`.
pub(crate) unsafe extern "C" fn reduce<T: SharedState>(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let (state, handle) = HandleObject::<T>::of(object);
        let class = ffi::Py_TYPE(object).cast::<ffi::PyObject>();
        let objects = &state.objects;
        let simple = ffi::PyType_IsSubtype(class.cast(), objects.simple_queue_type.get().cast()) != 0;
        let (kind, exact) = match T::KIND {
            ObjectKind::Lock => (LOCK, objects.lock_type.get() == class),
            ObjectKind::Queue if simple => (SIMPLE_QUEUE, objects.simple_queue_type.get() == class),
            ObjectKind::Queue => (QUEUE, objects.queue_type.get() == class),
        };
        let id = handle.id();
        Pins::add(state.region, id, T::KIND);
        let attach = state.object(&objects.attach)?;
        let (region, index, generation) = (state.region.number(), id.index, id.generation);
        Owned::from_raw(if exact {
            ffi::Py_BuildValue(c"O(LKII)".as_ptr(), attach.as_ptr(), kind, region, index, generation)
        } else {
            ffi::Py_BuildValue(c"O(LKIIO)".as_ptr(), attach.as_ptr(), kind, region, index, generation, class)
        })
    })
}

/// `attach(kind, region, index, generation, class=None)`: gives the object that the id names.
pub(crate) unsafe extern "C" fn attach(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let parameters = [c"kind", c"region", c"index", c"generation", c"class"];
        let [kind, region, index, generation, class] =
            Arguments::new(values, count, names).parse("attach", parameters, 4)?;
        let kind = number(kind)?;
        let region = ffi::PyLong_AsUnsignedLongLong(region);
        let (index, generation) = (number(index)?, number(generation)?);
        if !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        if region != state.region.number() {
            return errors::attach(state, multigil::error::AttachError::OtherRegion);
        }
        let (Ok(index), Ok(generation)) = (u32::try_from(index), u32::try_from(generation)) else {
            return errors::attach(state, multigil::error::AttachError::Corrupt);
        };
        let id = ObjectId { index, generation };
        let objects = &state.objects;
        match kind {
            QUEUE => find::<Queue>(state, id, &objects.queue_type, class),
            SIMPLE_QUEUE => find::<Queue>(state, id, &objects.simple_queue_type, class),
            LOCK => find::<SharedLock>(state, id, &objects.lock_type, class),
            _ => errors::attach(state, multigil::error::AttachError::Corrupt),
        }
    })
}

unsafe fn number(object: *mut ffi::PyObject) -> Result<i64> {
    let number = ffi::PyLong_AsLongLong(object);
    if number == -1 && !ffi::PyErr_Occurred().is_null() { Err(Raised) } else { Ok(number) }
}

/// The object of an id: the one that exists here, or a new one of `class` (by default `base`).
unsafe fn find<T: SharedState>(
    state: &'static State,
    id: ObjectId,
    base: &core::cell::Cell<*mut ffi::PyObject>,
    class: *mut ffi::PyObject,
) -> Result<Owned> {
    let base = state.object(base)?;
    let class = if class.is_null() { base.as_ptr() } else { class };
    if ffi::PyType_Check(class) == 0 || ffi::PyType_IsSubtype(class.cast(), base.as_ptr().cast()) == 0 {
        return raise(ffi::PyExc_TypeError, "attach() argument 'class' must be a subclass of what the id names");
    }
    // A free-threaded build could find an object whose last reference another thread is just dropping.
    if !cfg!(Py_GIL_DISABLED)
        && let Some(object) = state.known.lock().0.get(&key(id))
        && ffi::PyType_IsSubtype(ffi::Py_TYPE(*object), base.as_ptr().cast()) != 0
    {
        return Ok(Owned::from_borrowed(*object));
    }
    match state.region.attach::<T>(id, state.me) {
        Ok(handle) => wrap(state, class.cast(), handle),
        Err(error) => errors::attach(state, error),
    }
}

/// What a lock's owner is called by: the interpreter and the kernel's id of the thread.
#[inline(always)]
pub(crate) fn owner(state: &State) -> multigil::lock::Owner {
    thread_local! {
        // SAFETY: asking for the calling thread's id has no preconditions.
        static THREAD: u32 = unsafe { libc::gettid() } as u32;
    }
    multigil::lock::Owner { peer: state.me, thread: THREAD.with(|thread| *thread) }
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
        slot(ffi::Py_tp_traverse, py::traverse_type as *mut c_void),
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
