//! `Array`: `multiprocessing.Array`, between threads and interpreters, with what a machine can do to an element in one
//! step, and a buffer.
//!
//! An element is read and written by one instruction. What takes several of them (a slice, the string of an array of
//! 'c') is done with the lock held, as in `multiprocessing`.

use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;

use multigil::object::SharedMemory;
use pyo3::ffi;

use crate::atomics::{self, Cell, atomic_methods};
use crate::errors;
use crate::handle;
use crate::py::{self, Owned, Raised, Result, check, raise};
use crate::typecode::Typecode;

const OUT_OF_RANGE: &str = "array index out of range";
const ASSIGNMENT_OUT_OF_RANGE: &str = "array assignment index out of range";

/// How many elements there are.
unsafe fn length(object: *mut ffi::PyObject) -> usize {
    atomics::Object::of(object).1.elements()
}

/// Some places of an array, in order.
#[derive(Clone, Copy, Debug)]
struct Places {
    start: isize,
    step: isize,
    count: usize,
}

impl Places {
    unsafe fn of_slice(slice: *mut ffi::PyObject, length: usize) -> Result<Places> {
        let (mut start, mut stop, mut step) = (0, 0, 0);
        check(ffi::PySlice_Unpack(slice, &raw mut start, &raw mut stop, &raw mut step))?;
        let count = ffi::PySlice_AdjustIndices(length as isize, &raw mut start, &raw mut stop, step);
        Ok(Places { start, step, count: count as usize })
    }

    fn first(count: usize) -> Places {
        Places { start: 0, step: 1, count }
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        (0..self.count).map(move |number| (self.start + number as isize * self.step) as usize)
    }
}

/// The bits of the elements at some places, which exist.
unsafe fn load(object: *mut ffi::PyObject, places: Places) -> Result<Vec<u64>> {
    let memory = atomics::Object::of(object).1;
    atomics::locked(object, || {
        places.iter().filter_map(|place| memory.element(place)).map(|element| element.load()).collect()
    })
}

/// Sets the elements at some places, which exist.
unsafe fn store(object: *mut ffi::PyObject, places: Places, all_bits: impl Iterator<Item = u64>) -> Result<()> {
    let memory = atomics::Object::of(object).1;
    atomics::locked(object, || {
        for (place, bits) in places.iter().zip(all_bits) {
            if let Some(element) = memory.element(place) {
                element.store(bits);
            }
        }
    })
}

unsafe fn bytes(content: &[u8]) -> Result<Owned> {
    Owned::from_raw(ffi::PyBytes_FromStringAndSize(content.as_ptr().cast(), content.len() as isize))
}

/// A list of the elements at some places; of 'c' a bytes object.
unsafe fn get_slice(object: *mut ffi::PyObject, places: Places) -> Result<Owned> {
    let typecode = atomics::elements(object)?.2;
    let all_bits = load(object, places)?;
    if typecode.is_char() {
        return bytes(&all_bits.iter().map(|bits| *bits as u8).collect::<Vec<_>>());
    }
    let list = Owned::from_raw(ffi::PyList_New(all_bits.len() as isize))?;
    for (number, bits) in all_bits.into_iter().enumerate() {
        ffi::PyList_SetItem(list.as_ptr(), number as isize, typecode.object(bits)?.into_raw());
    }
    Ok(list)
}

/// What the items of an iterable are as elements.
unsafe fn all_bits(typecode: &Typecode, values: *mut ffi::PyObject) -> Result<Vec<u64>> {
    // A list could change while its items are looked at.
    let values = Owned::from_raw(ffi::PySequence_Tuple(values))?;
    (0..ffi::PyTuple_Size(values.as_ptr()))
        .map(|number| typecode.bits(ffi::PyTuple_GetItem(values.as_ptr(), number)))
        .collect()
}

unsafe fn set_slice(object: *mut ffi::PyObject, places: Places, values: *mut ffi::PyObject) -> Result<()> {
    let all_bits = all_bits(atomics::elements(object)?.2, values)?;
    if all_bits.len() != places.count {
        return raise(ffi::PyExc_ValueError, "Can only assign sequence of same size");
    }
    store(object, places, all_bits.into_iter())
}

unsafe extern "C" fn array_length(object: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    length(object) as isize
}

unsafe extern "C" fn array_item(object: *mut ffi::PyObject, place: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    py::guard(|| match Cell::at(object, place as usize)? {
        Some(cell) => cell.get(),
        None => raise(ffi::PyExc_IndexError, OUT_OF_RANGE),
    })
}

unsafe extern "C" fn array_subscript(object: *mut ffi::PyObject, key: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        if ffi::PySlice_Check(key) != 0 {
            return get_slice(object, Places::of_slice(key, length(object))?);
        }
        Cell::indexed(object, key, OUT_OF_RANGE)?.get()
    })
}

unsafe extern "C" fn array_assign(
    object: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_TypeError, "Array does not support item deletion");
        }
        if ffi::PySlice_Check(key) != 0 {
            return set_slice(object, Places::of_slice(key, length(object))?, value);
        }
        Cell::indexed(object, key, ASSIGNMENT_OUT_OF_RANGE)?.set(value)
    })
}

unsafe extern "C" fn array_iterate(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PySeqIter_New(object)))
}

/// Lends the memory to whoever asks: what is done to it by way of a buffer is not done in one step.
unsafe extern "C" fn array_buffer(object: *mut ffi::PyObject, view: *mut ffi::Py_buffer, flags: c_int) -> c_int {
    py::guard_status(|| {
        (*view).obj = null_mut(); // as it has to be after an error
        let typecode = atomics::elements(object)?.2;
        let (start, bytes) = atomics::Object::of(object).1.bytes();
        let wants = |flag| flags & flag == flag;
        (*view).buf = start.as_ptr().cast();
        (*view).len = bytes as isize;
        (*view).itemsize = typecode.format().width as isize;
        (*view).readonly = 0;
        (*view).ndim = 1;
        (*view).format = if wants(ffi::PyBUF_FORMAT) { typecode.code.as_ptr().cast_mut() } else { null_mut() };
        // The length in elements needs a place that lives as long as the buffer does.
        (*view).internal = length(object) as *mut c_void;
        (*view).shape = if wants(ffi::PyBUF_ND) { (&raw mut (*view).internal).cast() } else { null_mut() };
        (*view).strides = if wants(ffi::PyBUF_STRIDES) { &raw mut (*view).itemsize } else { null_mut() };
        (*view).suboffsets = null_mut();
        (*view).obj = Owned::from_borrowed(object).into_raw();
        Ok(())
    })
}

// ------------------------------------------------------------------------------------------------- strings

/// All places of an array of 'c'. Raises AttributeError if it is none.
unsafe fn string(object: *mut ffi::PyObject) -> Result<Places> {
    if atomics::elements(object)?.2.is_char() {
        return Ok(Places::first(length(object)));
    }
    raise(ffi::PyExc_AttributeError, "only an Array of 'c' is a string")
}

unsafe fn load_string(object: *mut ffi::PyObject) -> Result<Vec<u8>> {
    Ok(load(object, string(object)?)?.into_iter().map(|bits| bits as u8).collect())
}

unsafe fn store_string(object: *mut ffi::PyObject, content: &[u8], end: Option<u8>) -> Result<()> {
    let places = string(object)?;
    if content.len() > places.count {
        return raise(ffi::PyExc_ValueError, "byte string too long");
    }
    store(object, places, content.iter().copied().chain(end).map(u64::from))
}

unsafe extern "C" fn get_value(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| bytes(load_string(object)?.split(|byte| *byte == 0).next().unwrap_or_default()))
}

unsafe extern "C" fn set_value(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_AttributeError, "value can't be deleted");
        }
        if ffi::PyBytes_Check(value) == 0 {
            let text = c"bytes expected instead of %s instance";
            ffi::PyErr_Format(ffi::PyExc_TypeError, text.as_ptr(), (*ffi::Py_TYPE(value)).tp_name);
            return Err(Raised);
        }
        let (start, length) = (ffi::PyBytes_AsString(value), ffi::PyBytes_Size(value));
        store_string(object, core::slice::from_raw_parts(start.cast(), length as usize), Some(0))
    })
}

unsafe extern "C" fn get_raw(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| bytes(&load_string(object)?))
}

unsafe extern "C" fn set_raw(object: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    py::guard_status(|| {
        if value.is_null() {
            return raise(ffi::PyExc_AttributeError, "raw can't be deleted");
        }
        let copy = Owned::from_raw(ffi::PyMemoryView_FromObject(value))?;
        let copy = Owned::from_raw(ffi::PyBytes_FromObject(copy.as_ptr()))?;
        let (start, length) = (ffi::PyBytes_AsString(copy.as_ptr()), ffi::PyBytes_Size(copy.as_ptr()));
        store_string(object, core::slice::from_raw_parts(start.cast(), length as usize), None)
    })
}

// ------------------------------------------------------------------------------------------------- the type

unsafe extern "C" fn array_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let code = atomics::elements(object)?.2.code.to_string_lossy();
        handle::repr(object, &format!("{} of '{code}'", length(object)))
    })
}

/// How many elements there are to be, and what they are at first.
unsafe fn content(typecode: &Typecode, size_or_values: *mut ffi::PyObject) -> Result<(usize, Vec<u64>)> {
    // An array of numpy is an index, too, if it has just one element.
    if ffi::PyIndex_Check(size_or_values) == 0 || (*ffi::Py_TYPE(size_or_values)).tp_iter.is_some() {
        let all_bits = all_bits(typecode, size_or_values)?;
        return Ok((all_bits.len(), all_bits));
    }
    let size = ffi::PyNumber_AsSsize_t(size_or_values, ffi::PyExc_OverflowError);
    if size == -1 && !ffi::PyErr_Occurred().is_null() {
        return Err(Raised);
    }
    match usize::try_from(size) {
        Ok(size) => Ok((size, Vec::new())),
        Err(_) => raise(ffi::PyExc_ValueError, &format!("Array length must be >= 0, not {size}")),
    }
}

unsafe extern "C" fn new_array(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        py::with_arguments(arguments, keywords, |arguments| {
            arguments.positional_at_most("Array", 2)?;
            let parameters = [c"typecode", c"size_or_values", c"lock"];
            let [typecode, size_or_values, lock] = arguments.parse("Array", parameters, 2)?;
            let typecode = Typecode::of(typecode)?;
            let (count, all_bits) = content(typecode, size_or_values)?;
            let state = crate::state_of_type(class)?;
            let lock = atomics::lock_argument(state, lock)?;
            let (place, format) = (state.here(), typecode.format());
            let memory = match place.region.create_memory(place.me, format, count.saturating_mul(format.width as usize))
            {
                Ok(memory) => memory,
                Err(error) => return errors::out_of_memory(error),
            };
            for (place, bits) in all_bits.into_iter().enumerate() {
                memory.element(place).expect("it was made for as many").store(bits);
            }
            handle::wrap(state, class, memory, lock)
        })
    })
}

static mut METHODS: [ffi::PyMethodDef; 18] = atomic_methods!(true, ", index", "the element");

static mut ATTRIBUTES: [ffi::PyGetSetDef; 4] = [
    attribute(c"value", get_value, set_value, c"Of an array of 'c': the bytes up to the first zero."),
    attribute(c"raw", get_raw, set_raw, c"Of an array of 'c': all the bytes."),
    atomics::TYPECODE,
    py::ATTRIBUTES_END,
];

const fn attribute(name: &'static CStr, get: ffi::getter, set: ffi::setter, doc: &'static CStr) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set: Some(set), doc: doc.as_ptr(), closure: null_mut() }
}

/// Makes the type `Array`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Array(typecode, size_or_values, *, lock=True)\n--\n\n\
Numbers that threads and interpreters share: multiprocessing.Array, with what takes a machine one step.\n\n\
typecode and lock are as for Value. size_or_values is how many zeros there are, or an iterable of the numbers.\n\
Getting and setting an element is one step, which does not take the lock; a slice is got and set with the lock held.\n\
The array is a buffer too: memoryview(array) and numpy.frombuffer(array, array.typecode) see its memory, and know\n\
nothing of steps and locks. An array may be sent to other interpreters, in a queue's items and as an argument.";
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    let more = [
        slot(ffi::Py_tp_repr, array_repr as *mut c_void),
        slot(ffi::Py_tp_iter, array_iterate as *mut c_void),
        slot(ffi::Py_sq_length, array_length as *mut c_void),
        slot(ffi::Py_sq_item, array_item as *mut c_void),
        slot(ffi::Py_mp_length, array_length as *mut c_void),
        slot(ffi::Py_mp_subscript, array_subscript as *mut c_void),
        slot(ffi::Py_mp_ass_subscript, array_assign as *mut c_void),
        slot(ffi::Py_bf_getbuffer, array_buffer as *mut c_void),
    ];
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedMemory>(module, c"multigil.Array", doc, new_array, methods, attributes, &more)
}
