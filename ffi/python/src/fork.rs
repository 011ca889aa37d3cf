//! Forks: the child takes part in each region as a participant of its own, and all objects are in the same state as the
//! parent's, because they are the same ones.
//!
//! ```text
//!   before      for each region: open its file for the child, register the child, and take a reference to each object
//!   the parent  closes the file: the locks that say that the child is alive are the child's alone
//!   the child   has that file in place of the parent's, and those references in place of the parent's handles
//! ```
//!
//! Whatever the parent holds stays the parent's: the child gives back none of it. Python calls these functions for every
//! `os.fork`; a fork by C code that knows nothing of Python leaves the child with handles that are its parent's, and the
//! parent's death is not noticed until that child has ended or started another program. Nor may a fork come from within
//! what a `get` unpickles: the child would give back its parent's message when that is done.

use core::cell::RefCell;
use core::ptr::null_mut;
use std::collections::HashMap;

use multigil::error::RegionError;
use multigil::layout::PeerId;
use multigil::object::{Reference, Successor};
use parking_lot::Mutex;
use pyo3::ffi;

use crate::py::{self, Owned, Result, import};
use crate::state::{Place, State};
use crate::{alarm, handle, wait};

/// What is ready for a child.
#[derive(Debug, Default)]
struct Prepared {
    regions: Vec<(Place, Successor)>,
    references: HashMap<*mut ffi::PyObject, Reference>,
}

thread_local! {
    /// What the thread has prepared that is about to fork.
    static PREPARED: RefCell<Prepared> = RefCell::default();
}

/// Whether this process was forked by one that had the module loaded.
static IS_CHILD: Mutex<bool> = Mutex::new(false);

/// Whether this process was forked by one that had the module loaded.
pub(crate) fn is_child() -> bool {
    *IS_CHILD.lock()
}

impl Prepared {
    unsafe fn for_all_of(state: &State) -> core::result::Result<Prepared, RegionError> {
        let mut prepared = Prepared::default();
        for place in state.places().all.iter().copied() {
            // Who forks and never waits here would collect the dead.
            place.region.look_for_deaths(place.me);
            prepared.regions.push((place, place.region.prepare_fork()?));
        }
        for object in &state.known.lock().objects {
            let Some((place, id, kind)) = handle::whereabouts_of(state, *object) else { continue };
            // What can't be had now is tried once more in the child.
            if let Some(child) = prepared.name(place)
                && let Ok(reference) = place.region.refer(child, id, kind)
            {
                prepared.references.insert(*object, reference);
            }
        }
        Ok(prepared)
    }

    /// What the child is called in a region.
    fn name(&self, place: Place) -> Option<PeerId> {
        let region = self.regions.iter().find(|(known, _)| core::ptr::eq(known.region, place.region));
        region.map(|(_, successor)| successor.me())
    }

    /// Has the child, which is this process, be what was prepared for it.
    unsafe fn take_over(mut self, state: &State) -> core::result::Result<(), RegionError> {
        let names: Vec<_> = self.regions.iter().map(|(place, successor)| (*place, successor.me())).collect();
        let renamed = |place: Place| {
            let name = names.iter().find(|(known, _)| core::ptr::eq(known.region, place.region));
            name.map_or(place, |(_, me)| Place { me: *me, ..place })
        };
        for (place, successor) in self.regions.drain(..) {
            place.region.take_over(successor)?;
        }
        state.rename(renamed);
        let mut left = Vec::new();
        for object in &state.known.lock().objects {
            let Some((place, id, kind)) = handle::whereabouts_of(state, *object) else { continue };
            let me = renamed(place).me;
            // Another thread may have put another object where that one was.
            let (prepared, other) = match self.references.remove(object) {
                Some(reference) if reference.id() == id => (Some(reference), None),
                other => (None, other),
            };
            left.extend(other.map(|other| (place, me, other)));
            match prepared.map_or_else(|| place.region.refer(me, id, kind), Ok) {
                Ok(reference) => handle::become_own(state, *object, me, reference),
                Err(_) => ffi::Py_INCREF(*object), // it never gives back what is the parent's
            }
            alarm::become_own(*object);
        }
        left.into_iter().for_each(|(place, me, reference)| place.region.drop_reference(me, reference));
        Ok(())
    }
}

unsafe extern "C" fn before(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| match Prepared::for_all_of(crate::state_of_module(module)) {
        Ok(prepared) => {
            PREPARED.set(prepared);
            Ok(())
        }
        Err(error) => crate::errors::region(error),
    })
}

unsafe extern "C" fn after_in_parent(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        for (place, successor) in PREPARED.take().regions {
            place.region.leave_to_child(successor);
        }
        Ok(())
    })
}

unsafe extern "C" fn after_in_child(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let state = crate::state_of_module(module);
        *IS_CHILD.lock() = true;
        wait::forget_other_threads();
        alarm::forget_watches();
        handle::forget_thread();
        let prepared = match PREPARED.take() {
            // It failed before, which was said then.
            prepared if prepared.regions.is_empty() => Prepared::for_all_of(state),
            prepared => Ok(prepared),
        };
        if let Err(error) = prepared.and_then(|prepared| prepared.take_over(state)) {
            // To go on as the parent's double would break the parent.
            eprintln!("multigil: a forked child cannot take part in shared memory: {error}");
            std::process::abort();
        }
        Ok(())
    })
}

static mut BEFORE: ffi::PyMethodDef = py::method_no_args(c"before_fork", before, c"Prepare a fork.");
static mut IN_PARENT: ffi::PyMethodDef = py::method_no_args(c"after_fork_in_parent", after_in_parent, c"End a fork.");
static mut IN_CHILD: ffi::PyMethodDef =
    py::method_no_args(c"after_fork_in_child", after_in_child, c"Begin as a child.");

/// Has Python call these functions. Only the main interpreter may fork.
pub(crate) unsafe fn register(module: *mut ffi::PyObject) -> Result<()> {
    let function =
        |definition: *mut ffi::PyMethodDef| Owned::from_raw(ffi::PyCFunction_NewEx(definition, module, null_mut()));
    let arguments = Owned::from_raw(ffi::PyTuple_New(0))?;
    let keywords = Owned::from_raw(ffi::PyDict_New())?;
    for (name, definition) in
        [(c"before", &raw mut BEFORE), (c"after_in_parent", &raw mut IN_PARENT), (c"after_in_child", &raw mut IN_CHILD)]
    {
        py::check(ffi::PyDict_SetItemString(keywords.as_ptr(), name.as_ptr(), function(definition)?.as_ptr()))?;
    }
    let register = import(c"posix")?.attribute(c"register_at_fork")?;
    Owned::from_raw(ffi::PyObject_Call(register.as_ptr(), arguments.as_ptr(), keywords.as_ptr())).map(drop)
}
