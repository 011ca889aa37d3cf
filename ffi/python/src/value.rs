//! `Value`: `multiprocessing.Value`, between threads and interpreters, with what a machine can do to it in one step.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

use multigil::object::SharedMemory;
use pyo3::ffi;

use crate::atomics::{self, Cell, atomic_methods};
use crate::errors;
use crate::handle;
use crate::py::{self, Owned, Result, raise};
use crate::typecode::Typecode;

unsafe extern "C" fn get_value(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Cell::only(object)?.get())
}

unsafe extern "C" fn set_value(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_AttributeError, "value can't be deleted");
        }
        Cell::only(object)?.set(value)
    })
}

unsafe extern "C" fn value_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let code = atomics::elements(object)?.2.code.to_string_lossy();
        let value = Owned::from_raw(ffi::PyObject_Repr(Cell::only(object)?.get()?.as_ptr()))?;
        handle::repr(object, &format!("'{code}', {}", py::utf8(value.as_ptr())?))
    })
}

unsafe extern "C" fn new_value(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        py::with_arguments(arguments, keywords, |arguments| {
            arguments.positional_at_most("Value", 2)?;
            let [typecode, value, lock] = arguments.parse("Value", [c"typecode", c"value", c"lock"], 1)?;
            let typecode = Typecode::of(typecode)?;
            let bits = if value.is_null() { 0 } else { typecode.bits(value)? };
            let state = crate::state_of_type(class)?;
            let lock = atomics::lock_argument(state, lock)?;
            let (place, format) = (state.here(), typecode.format());
            let memory = match place.region.create_memory(place.me, format, format.width as usize) {
                Ok(memory) => memory,
                Err(error) => return errors::out_of_memory(error),
            };
            memory.element(0).expect("it was made for one").store(bits);
            handle::wrap(state, class, memory, lock)
        })
    })
}

static mut METHODS: [ffi::PyMethodDef; 18] = atomic_methods!(false, "", "the value");

static mut ATTRIBUTES: [ffi::PyGetSetDef; 3] = [
    ffi::PyGetSetDef {
        name: c"value".as_ptr(),
        get: Some(get_value),
        set: Some(set_value),
        doc: c"The value. Reading and writing it is one step each, which does not take the lock.".as_ptr(),
        closure: null_mut(),
    },
    atomics::TYPECODE,
    py::ATTRIBUTES_END,
];

/// Makes the type `Value`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Value(typecode, value=0, *, lock=True)\n--\n\n\
A number that threads and interpreters share: multiprocessing.Value, with what takes a machine one step.\n\n\
typecode is a character as for array, '?' for bool or 'c' for a byte, or a type of ctypes like c_int. lock is the\n\
one that get_lock() gives: an RLock of its own if it is True, none if it is False. A value may be sent to other\n\
interpreters, in a queue's items and as an argument.";
    let repr = ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: value_repr as *mut c_void };
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedMemory>(module, c"multigil.Value", doc, new_value, methods, attributes, &[repr])
}
