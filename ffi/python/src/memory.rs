//! `Memory`: bytes that have a name, as a buffer. `multigil.SharedMemory` is made of it, in Python.
//!
//! Unlike other shared types, each unpickling gives an object of its own, so that each holder counts its own views.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

use multigil::error::NameError;
use multigil::memory::Format;
use multigil::object::{Handle, SharedMemory};
use pyo3::ffi;

use crate::errors;
use crate::handle::{self, HandleObject};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;

type Object = HandleObject<SharedMemory>;

/// The memory is not accessed by elements.
const BYTES: Format = Format { meaning: 0, width: 0 };

unsafe fn wrap(state: &'static State, memory: Handle<'static, SharedMemory>) -> Result<Owned> {
    let class = state.object(&state.objects.memory_type)?;
    handle::wrap(state, class.as_ptr().cast(), memory, None)
}

/// `create_memory(name, size) -> Memory | None`
pub(crate) unsafe extern "C" fn create(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let [name, size] = Arguments::new(values, count, names).parse("create_memory", [c"name", c"size"], 2)?;
        let size = ffi::PyNumber_AsSsize_t(size, ffi::PyExc_OverflowError);
        if size == -1 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        let Ok(size) = usize::try_from(size) else {
            return raise(ffi::PyExc_ValueError, "'size' must be a positive integer");
        };
        let state = crate::state_of_module(module);
        let place = state.here();
        match place.region.create_named_memory(place.me, py::utf8(name)?, BYTES, size) {
            Ok(memory) => wrap(state, memory),
            Err(NameError::Exists) => Ok(Owned::none()),
            Err(error @ NameError::TooLong) => raise(ffi::PyExc_ValueError, &error.to_string()),
            Err(NameError::OutOfMemory(error)) => errors::out_of_memory(error),
        }
    })
}

/// `open_memory(name) -> Memory | None`
pub(crate) unsafe extern "C" fn open(module: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let place = state.here();
        match place.region.open_memory(place.me, py::utf8(name)?) {
            Some(memory) => wrap(state, memory),
            None => Ok(Owned::none()),
        }
    })
}

/// `unlink_memory(name, region) -> bool`
pub(crate) unsafe extern "C" fn unlink(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let [name, region] = Arguments::new(values, count, names).parse("unlink_memory", [c"name", c"region"], 2)?;
        let visit = crate::region::visit(crate::state_of_module(module), region)?;
        Ok(visit.place.region.unlink_memory(visit.place.me, py::utf8(name)?))
    })
}

unsafe extern "C" fn get_region(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(Object::of(object).1.region().number())))
}

unsafe extern "C" fn memory_length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    Object::of(object).1.bytes().1 as isize
}

unsafe extern "C" fn memory_buffer(object: *mut ffi::PyObject, view: *mut ffi::Py_buffer, flags: c_int) -> c_int {
    py::guard_status(|| {
        let (start, length) = Object::of(object).1.bytes();
        py::check(ffi::PyBuffer_FillInfo(view, object, start.as_ptr().cast(), length as isize, 0, flags))?;
        *Object::views(object) += 1;
        Ok(())
    })
}

unsafe extern "C" fn memory_release_buffer(object: *mut ffi::PyObject, _: *mut ffi::Py_buffer) {
    *Object::views(object) -= 1;
}

unsafe extern "C" fn get_views(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromSsize_t(*Object::views(object))))
}

unsafe extern "C" fn new_memory(
    _: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| raise(ffi::PyExc_TypeError, "cannot create 'multigil._core.Memory' instances"))
}

static mut METHODS: [ffi::PyMethodDef; 2] = [
    py::method_no_args(c"__reduce__", handle::reduce::<SharedMemory>, c"Pickle the memory by its id."),
    py::METHODS_END,
];

static mut ATTRIBUTES: [ffi::PyGetSetDef; 3] = [
    ffi::PyGetSetDef {
        name: c"region".as_ptr(),
        get: Some(get_region),
        set: None,
        doc: c"The number of the region that it is in.".as_ptr(),
        closure: null_mut(),
    },
    ffi::PyGetSetDef {
        name: c"views".as_ptr(),
        get: Some(get_views),
        set: None,
        doc: c"How many buffers of it are in use.".as_ptr(),
        closure: null_mut(),
    },
    py::ATTRIBUTES_END,
];

/// Makes the type `Memory`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Bytes that have a name and are shared by threads and interpreters, as a buffer.";
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let more = [
        slot(ffi::Py_mp_length, memory_length as *mut c_void),
        slot(ffi::Py_bf_getbuffer, memory_buffer as *mut c_void),
        slot(ffi::Py_bf_releasebuffer, memory_release_buffer as *mut c_void),
    ];
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedMemory>(module, c"multigil._core.Memory", doc, new_memory, methods, attributes, &more)
}
