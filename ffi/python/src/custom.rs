//! Queues whose class overrides `_init`, `_qsize`, `_put` or `_get`, as `queue.Queue` allows.
//!
//! What such hooks do only Python knows, so these queues are Python's: they have no handle, their methods are those of
//! the classes in `multigil._custom_queue`, and their attributes are in the object's `__dict__`. They work between the
//! threads of one interpreter, and cannot be sent to another.

use core::ffi::CStr;
use core::ptr::null_mut;

use multigil::queue::Queue;
use pyo3::ffi;

use crate::handle::HandleObject;
use crate::py::{self, Arguments, Owned, Raised, Result, check};
use crate::state::State;

const HOOKS: [&CStr; 4] = [c"_init", c"_qsize", c"_put", c"_get"];

/// Whether a class, derived from `base`, which is one of ours, has hooks of its own.
pub(crate) unsafe fn has_hooks(class: *mut ffi::PyTypeObject, base: *mut ffi::PyObject) -> Result<bool> {
    if base == class.cast() {
        return Ok(false);
    }
    for hook in HOOKS {
        let attribute = |class: *mut ffi::PyObject| Owned::from_raw(ffi::PyObject_GetAttrString(class, hook.as_ptr()));
        if attribute(class.cast())?.as_ptr() != attribute(base)?.as_ptr() {
            return Ok(true);
        }
    }
    Ok(false)
}

unsafe fn state(object: *mut ffi::PyObject) -> &'static State {
    HandleObject::<Queue>::state(object)
}

/// Does a method.
#[cold]
pub(crate) unsafe fn call(object: *mut ffi::PyObject, method: &CStr, arguments: Arguments) -> Result<Owned> {
    let function = state(object).custom_queue()?.attribute(CLASSES[QUEUE])?.attribute(method)?;
    arguments.pass_on(&function, object)
}

/// An attribute that the native queues compute.
#[cold]
pub(crate) unsafe fn get_attribute(object: *mut ffi::PyObject, name: &CStr) -> Result<Owned> {
    let attributes = Owned::from_raw(ffi::PyObject_GenericGetDict(object, null_mut()))?;
    let value = ffi::PyDict_GetItemString(attributes.as_ptr(), name.as_ptr()); // borrowed
    if value.is_null() {
        return no_attribute(object, name);
    }
    Ok(Owned::from_borrowed(value))
}

/// Sets such an attribute; null deletes it.
#[cold]
pub(crate) unsafe fn set_attribute(object: *mut ffi::PyObject, name: &CStr, value: *mut ffi::PyObject) -> Result<()> {
    let attributes = Owned::from_raw(ffi::PyObject_GenericGetDict(object, null_mut()))?;
    if value.is_null() {
        let status = ffi::PyDict_DelItemString(attributes.as_ptr(), name.as_ptr());
        return if status < 0 { no_attribute(object, name) } else { Ok(()) };
    }
    check(ffi::PyDict_SetItemString(attributes.as_ptr(), name.as_ptr(), value)).map(drop)
}

unsafe fn no_attribute<T>(object: *mut ffi::PyObject, name: &CStr) -> Result<T> {
    ffi::PyErr_Clear();
    let class = Owned::from_raw(ffi::PyType_GetName(ffi::Py_TYPE(object)))?;
    let text = c"'%U' object has no attribute '%s'";
    ffi::PyErr_Format(ffi::PyExc_AttributeError, text.as_ptr(), class.as_ptr(), name.as_ptr());
    Err(Raised)
}

/// `__reduce__`.
#[cold]
pub(crate) unsafe fn refuse_to_reduce<T>(object: *mut ffi::PyObject) -> Result<T> {
    let class = Owned::from_raw(ffi::PyType_GetName(ffi::Py_TYPE(object)))?;
    let text =
        c"'%U' overrides _init, _qsize, _put or _get, so its items are in Python's objects: it works between the \
threads of one interpreter and cannot be sent to another";
    let error = state(object).object(&state(object).objects.not_shareable)?;
    ffi::PyErr_Format(error.as_ptr(), text.as_ptr(), class.as_ptr());
    Err(Raised)
}

/// The classes of `multigil._custom_queue` that have the hooks of ours.
const CLASSES: [&CStr; 3] = [c"Queue", c"LifoQueue", c"PriorityQueue"];
pub(crate) const QUEUE: usize = 0;
pub(crate) const LIFO_QUEUE: usize = 1;
pub(crate) const PRIORITY_QUEUE: usize = 2;

/// The hooks of one of our classes, for `super()` in those of a subclass.
pub(crate) const fn hooks<const CLASS: usize>() -> [ffi::PyMethodDef; 4] {
    [
        py::method_one(c"_init", init::<CLASS>, c"_init($self, maxsize, /)\n--\n\nA hook: make what holds the items."),
        py::method_no_args(c"_qsize", qsize::<CLASS>, c"_qsize($self)\n--\n\nA hook: the number of items."),
        py::method_one(c"_put", put::<CLASS>, c"_put($self, item, /)\n--\n\nA hook: put an item."),
        py::method_no_args(c"_get", get::<CLASS>, c"_get($self)\n--\n\nA hook: take the next item."),
    ]
}

unsafe extern "C" fn init<const CLASS: usize>(
    object: *mut ffi::PyObject,
    maxsize: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    hook(CLASS, c"_init", &[object, maxsize])
}

unsafe extern "C" fn qsize<const CLASS: usize>(
    object: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    hook(CLASS, c"_qsize", &[object])
}

unsafe extern "C" fn put<const CLASS: usize>(
    object: *mut ffi::PyObject,
    item: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    hook(CLASS, c"_put", &[object, item])
}

unsafe extern "C" fn get<const CLASS: usize>(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    hook(CLASS, c"_get", &[object])
}

unsafe fn hook(class: usize, name: &CStr, arguments: &[*mut ffi::PyObject]) -> *mut ffi::PyObject {
    py::guard(|| state(arguments[0]).custom_queue()?.attribute(CLASSES[class])?.attribute(name)?.call(arguments))
}
