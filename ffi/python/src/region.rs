//! What `multigil.Region` is made of: opening regions, making objects in them, and the names that objects have there.
//!
//! A region is called by its number here. Whoever opened it keeps it open until `close_region`.

use multigil::error::NameError;
use multigil::layout::{ObjectId, ObjectKind};
use multigil::object::Region;
use pyo3::ffi;

use crate::errors;
use crate::handle::{self, location_of_text, location_text};
use crate::py::{self, Arguments, Owned, Result, raise};
use crate::state::{self, Place, State, Visit};

/// The region of a number, which is open.
pub(crate) unsafe fn visit(state: &'static State, number: *mut ffi::PyObject) -> Result<Visit> {
    state.visit(py::unsigned(number)?, None).or_else(|error| errors::region(error))
}

/// `open_region(name, create) -> int`
pub(crate) unsafe extern "C" fn open(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let [name, create] = Arguments::new(values, count, names).parse("open_region", [c"name", c"create"], 2)?;
        let opened = if name == ffi::Py_None() {
            Region::new().map(Some)
        } else if create == ffi::Py_None() {
            Region::named(py::utf8(name)?).map(Some)
        } else if py::truth(create, false)? {
            Region::create_named(py::utf8(name)?)
        } else {
            Region::find(py::utf8(name)?)
        };
        match opened.and_then(|opened| opened.map(|region| state.keep(region.keep())).transpose()) {
            Ok(Some(number)) => Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(number)),
            Ok(None) => Ok(Owned::none()),
            Err(error) => errors::named_region(state, error),
        }
    })
}

/// `join_region(number, location)`
pub(crate) unsafe extern "C" fn join(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let parameters = [c"number", c"location"];
        let [number, location] = Arguments::new(values, count, names).parse("join_region", parameters, 2)?;
        let (state, location) = (crate::state_of_module(module), location_of_text(py::utf8(location)?));
        let visit = state.visit(py::unsigned(number)?, location.as_ref());
        visit.or_else(|error| errors::gone(state, error)).map(core::mem::forget) // until `close_region`
    })
}

/// `close_region(number)`
pub(crate) unsafe extern "C" fn close(module: *mut ffi::PyObject, number: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let state = crate::state_of_module(module);
        let visit = visit(state, number)?;
        state.let_go(visit.place);
        Ok(())
    })
}

/// `region_location(number) -> str`
pub(crate) unsafe extern "C" fn location(module: *mut ffi::PyObject, number: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| py::text(&location_text(&visit(crate::state_of_module(module), number)?.place.region.location())))
}

/// `region_names() -> [str, …]`
pub(crate) unsafe extern "C" fn region_names(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| match Region::names() {
        Ok(names) => py::list(names, |name| py::text(&name)),
        Err(error) => errors::named_region(crate::state_of_module(module), error),
    })
}

/// `retire_regions()`
pub(crate) unsafe extern "C" fn retire(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        crate::state_of_module(module).places().all.iter().for_each(|place| place.region.retire());
        Ok(())
    })
}

/// `make_in(number, function, args, kwargs)`
pub(crate) unsafe extern "C" fn make_in(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let parameters = [c"number", c"function", c"args", c"kwargs"];
        let [number, function, arguments, keywords] =
            Arguments::new(values, count, names).parse("make_in", parameters, 4)?;
        let visit = visit(crate::state_of_module(module), number)?;
        state::make_in(visit.place, || Owned::from_raw(ffi::PyObject_Call(function, arguments, keywords)))
    })
}

/// A name in a region: of an object of a class.
struct Named {
    visit: Visit,
    kind: u32,
    name: String,
}

unsafe fn named(
    module: *mut ffi::PyObject,
    number: *mut ffi::PyObject,
    class: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> Result<(&'static State, Named)> {
    let state = crate::state_of_module(module);
    let kind = handle::number_of_class(state, class)?;
    Ok((state, Named { visit: visit(state, number)?, kind, name: py::utf8(name)?.to_owned() }))
}

/// `find_object(number, class, name) -> object | None`
pub(crate) unsafe extern "C" fn find_object(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let parameters = [c"number", c"class_", c"name"];
        let [number, class, name] = Arguments::new(values, count, names).parse("find_object", parameters, 3)?;
        let (state, Named { visit, kind, name }) = named(module, number, class, name)?;
        let Some((id, companion)) = visit.place.region.find_name(visit.place.me, kind, &name) else {
            return Ok(Owned::none());
        };
        let found = find(state, visit.place, kind, id, companion);
        let stale = state.object(&state.objects.stale_handle)?;
        if found.is_err() && ffi::PyErr_ExceptionMatches(stale.as_ptr()) != 0 {
            ffi::PyErr_Clear(); // the name was just taken away
            return Ok(Owned::none());
        }
        found
    })
}

unsafe fn find(
    state: &'static State,
    place: Place,
    kind: u32,
    id: ObjectId,
    companion: Option<ObjectId>,
) -> Result<Owned> {
    let companion = companion.map(|companion| handle::attach_lock(state, place, companion)).transpose()?;
    handle::attach_as(state, place, kind, id, companion)
}

/// `name_object(number, class, name, object) -> bool`
pub(crate) unsafe extern "C" fn name_object(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let parameters = [c"number", c"class_", c"name", c"object"];
        let [number, class, name, object] = Arguments::new(values, count, names).parse("name_object", parameters, 4)?;
        let (state, Named { visit, kind, name }) = named(module, number, class, name)?;
        let region = visit.place.region;
        let here = |object| match handle::whereabouts_of(state, object) {
            Some((place, id, kind)) if core::ptr::eq(place.region, region) => Some((id, kind)),
            _ => None,
        };
        let Some(object_there) = here(object) else {
            return raise(ffi::PyExc_TypeError, "only an object of the region can have a name in it");
        };
        let companion = match handle::companion(object) {
            None => None,
            Some(companion) => match here(companion.as_ptr()) {
                Some(lock @ (_, ObjectKind::Lock | ObjectKind::RLock)) => Some(lock),
                _ if object_there.1 == ObjectKind::Barrier => {
                    let text = "a barrier with an action can't have a name: whoever finds it would have no action";
                    return raise(ffi::PyExc_TypeError, text);
                }
                _ => {
                    let text = "what has a name has to have a Lock or RLock of the same region, or none";
                    return raise(ffi::PyExc_TypeError, text);
                }
            },
        };
        match region.give_name(visit.place.me, kind, &name, object_there, companion) {
            Ok(()) => Ok(true),
            Err(NameError::Exists) => Ok(false),
            Err(error @ NameError::TooLong) => raise(ffi::PyExc_ValueError, &error.to_string()),
            Err(NameError::OutOfMemory(error)) => errors::out_of_memory(error),
        }
    })
}

/// `unname_object(number, class, name) -> bool`
pub(crate) unsafe extern "C" fn unname_object(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let parameters = [c"number", c"class_", c"name"];
        let [number, class, name] = Arguments::new(values, count, names).parse("unname_object", parameters, 3)?;
        let (_, Named { visit, kind, name }) = named(module, number, class, name)?;
        Ok(visit.place.region.take_name(visit.place.me, kind, &name))
    })
}

/// `object_names(number) -> [(class name, name), …]`
pub(crate) unsafe extern "C" fn object_names(
    module: *mut ffi::PyObject,
    number: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let visit = visit(state, number)?;
        py::list(visit.place.region.object_names(visit.place.me), |(kind, name)| {
            let class = handle::class_of_number(state, kind)?;
            let class = match class {
                Some(class) => Owned::from_raw(ffi::PyType_GetName(class.as_ptr().cast()))?,
                None => py::text("SharedMemory")?,
            };
            Owned::from_raw(ffi::PyTuple_Pack(2, class.as_ptr(), py::text(&name)?.as_ptr()))
        })
    })
}
