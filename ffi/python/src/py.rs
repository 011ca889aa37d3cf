//! The little that the other rooms need of the C API: owned references, errors, arguments, entrances.

use core::ffi::{CStr, c_int};
use core::mem::ManuallyDrop;
use core::ptr::{NonNull, null, null_mut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::ffi;

/// A Python exception is set in the calling thread.
#[derive(Debug)]
pub(crate) struct Raised;

/// What may have set an exception instead.
pub(crate) type Result<T> = core::result::Result<T, Raised>;

/// A reference that is given back when it is dropped.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Owned(NonNull<ffi::PyObject>);

impl Owned {
    /// Takes a reference over; null means that an exception is set.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(object: *mut ffi::PyObject) -> Result<Owned> {
        NonNull::new(object).map(Owned).ok_or(Raised)
    }

    /// A new reference to an object that somebody else holds.
    #[inline(always)]
    pub(crate) unsafe fn from_borrowed(object: *mut ffi::PyObject) -> Owned {
        ffi::Py_INCREF(object);
        Owned(NonNull::new_unchecked(object))
    }

    /// A new reference to None.
    #[inline(always)]
    pub(crate) unsafe fn none() -> Owned {
        Owned::from_borrowed(ffi::Py_None())
    }

    /// A new reference to True or False.
    pub(crate) unsafe fn bool(value: bool) -> Owned {
        Owned::from_borrowed(if value { ffi::Py_True() } else { ffi::Py_False() })
    }

    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    /// Gives the reference to somebody who knows raw pointers only.
    #[inline(always)]
    pub(crate) fn into_raw(self) -> *mut ffi::PyObject {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Calls the object.
    pub(crate) unsafe fn call(&self, arguments: &[*mut ffi::PyObject]) -> Result<Owned> {
        Owned::from_raw(ffi::PyObject_Vectorcall(self.as_ptr(), arguments.as_ptr(), arguments.len(), null_mut()))
    }

    /// An attribute.
    pub(crate) unsafe fn attribute(&self, name: &CStr) -> Result<Owned> {
        Owned::from_raw(ffi::PyObject_GetAttrString(self.as_ptr(), name.as_ptr()))
    }

    /// An attribute that may be missing.
    pub(crate) unsafe fn optional_attribute(&self, name: &CStr) -> Result<Option<Owned>> {
        match self.attribute(name) {
            Ok(attribute) => Ok(Some(attribute)),
            Err(Raised) if ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) != 0 => {
                ffi::PyErr_Clear();
                Ok(None)
            }
            Err(Raised) => Err(Raised),
        }
    }
}

impl Drop for Owned {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the reference is ours, and whoever holds one of an interpreter's objects is attached to it.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) };
    }
}

/// Imports a module.
pub(crate) unsafe fn import(name: &CStr) -> Result<Owned> {
    Owned::from_raw(ffi::PyImport_ImportModule(name.as_ptr()))
}

/// A C function's status: negative means that an exception is set.
#[inline(always)]
pub(crate) fn check(status: c_int) -> Result<c_int> {
    if status < 0 { Err(Raised) } else { Ok(status) }
}

/// A list of what `each` makes.
pub(crate) unsafe fn list<T>(items: impl IntoIterator<Item = T>, each: impl Fn(T) -> Result<Owned>) -> Result<Owned> {
    let list = Owned::from_raw(ffi::PyList_New(0))?;
    for item in items {
        check(ffi::PyList_Append(list.as_ptr(), each(item)?.as_ptr()))?;
    }
    Ok(list)
}

/// Raises an exception of a class with a text.
pub(crate) unsafe fn raise<T>(class: *mut ffi::PyObject, text: &str) -> Result<T> {
    let text = ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as ffi::Py_ssize_t);
    if let Some(text) = NonNull::new(text) {
        ffi::PyErr_SetObject(class, text.as_ptr());
        ffi::Py_DECREF(text.as_ptr());
    }
    Err(Raised)
}

/// Does something last, whatever came before, as Python's `finally`: if both raised, then what `last` raised leaves, with
/// the other one as its context.
pub(crate) unsafe fn finally<T>(result: Result<T>, last: impl FnOnce() -> Result<()>) -> Result<T> {
    if result.is_ok() {
        return last().and(result);
    }
    let earlier = Owned::from_raw(ffi::PyErr_GetRaisedException())?;
    if last().is_ok() {
        ffi::PyErr_SetRaisedException(earlier.into_raw());
    } else {
        let error = Owned::from_raw(ffi::PyErr_GetRaisedException())?;
        ffi::PyException_SetContext(error.as_ptr(), earlier.into_raw());
        ffi::PyErr_SetRaisedException(error.into_raw());
    }
    result
}

/// Runs what an entrance does; a panic becomes a SystemError instead of undefined behaviour.
#[inline(always)]
fn entrance<T>(body: impl FnOnce() -> Result<T>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(Raised)) => None,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            // SAFETY: the entrance was called attached, and every path leaves it attached.
            let _ = unsafe { raise::<()>(ffi::PyExc_SystemError, &format!("a bug in multigil: {text}")) };
            None
        }
    }
}

/// The entrance of a function that gives an object.
#[inline(always)]
pub(crate) fn guard(body: impl FnOnce() -> Result<Owned>) -> *mut ffi::PyObject {
    entrance(body).map_or(null_mut(), Owned::into_raw)
}

/// The entrance of a function that gives None.
#[inline(always)]
pub(crate) fn guard_none(body: impl FnOnce() -> Result<()>) -> *mut ffi::PyObject {
    // SAFETY: entrances are called attached.
    guard(|| body().map(|()| unsafe { Owned::none() }))
}

/// The entrance of a function that gives a truth value.
#[inline(always)]
pub(crate) fn guard_bool(body: impl FnOnce() -> Result<bool>) -> *mut ffi::PyObject {
    // SAFETY: entrances are called attached.
    guard(|| body().map(|value| unsafe { Owned::bool(value) }))
}

/// The entrance of a function that gives a status.
pub(crate) fn guard_status(body: impl FnOnce() -> Result<()>) -> c_int {
    entrance(body).map_or(-1, |()| 0)
}

/// The positional and keyword arguments of a call, as CPython passes them to a fast function.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    values: *const *mut ffi::PyObject,
    positional: usize,
    names: *mut ffi::PyObject,
}

impl Arguments {
    pub(crate) fn new(
        values: *const *mut ffi::PyObject,
        count: ffi::Py_ssize_t,
        names: *mut ffi::PyObject,
    ) -> Arguments {
        Arguments { values, positional: count as usize, names }
    }

    /// No arguments.
    pub(crate) const NONE: Arguments = Arguments { values: null(), positional: 0, names: null_mut() };

    /// Calls a function with them.
    pub(crate) unsafe fn call(&self, function: &Owned) -> Result<Owned> {
        Owned::from_raw(ffi::PyObject_Vectorcall(function.as_ptr(), self.values, self.positional, self.names))
    }

    /// Calls a function with another argument before them.
    pub(crate) unsafe fn pass_on(&self, function: &Owned, first: *mut ffi::PyObject) -> Result<Owned> {
        let named = if self.names.is_null() { 0 } else { ffi::PyTuple_Size(self.names) as usize };
        let others = (0..self.positional + named).map(|place| *self.values.add(place));
        let all: Vec<_> = core::iter::once(first).chain(others).collect();
        Owned::from_raw(ffi::PyObject_Vectorcall(function.as_ptr(), all.as_ptr(), self.positional + 1, self.names))
    }

    /// The only argument, if there is just one and it has no name.
    #[inline(always)]
    pub(crate) unsafe fn single(&self) -> Option<*mut ffi::PyObject> {
        (self.positional == 1 && self.names.is_null()).then(|| *self.values)
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.positional == 0 && self.names.is_null()
    }

    /// Checks that at most so many arguments have no name.
    pub(crate) unsafe fn positional_at_most(&self, function: &str, count: usize) -> Result<()> {
        if self.positional <= count {
            return Ok(());
        }
        let given = self.positional;
        let text = format!("{function}() takes at most {count} positional arguments ({given} given)");
        raise(ffi::PyExc_TypeError, &text)
    }

    /// The arguments of `function` by place; null where one is missing. The first `required` may not be.
    #[inline]
    pub(crate) unsafe fn parse<const COUNT: usize>(
        &self,
        function: &str,
        parameters: [&CStr; COUNT],
        required: usize,
    ) -> Result<[*mut ffi::PyObject; COUNT]> {
        let mut found = [null_mut(); COUNT];
        self.parse_into(function, &parameters, required, &mut found)?;
        Ok(found)
    }

    /// The same for any number of arguments.
    pub(crate) unsafe fn parse_into(
        &self,
        function: &str,
        parameters: &[&CStr],
        required: usize,
        found: &mut [*mut ffi::PyObject],
    ) -> Result<()> {
        let count = parameters.len();
        if self.positional > count {
            let (given, takes) = (self.positional, if count == 1 { "argument" } else { "arguments" });
            return raise(ffi::PyExc_TypeError, &format!("{function}() takes at most {count} {takes} ({given} given)"));
        }
        for (place, value) in found.iter_mut().enumerate().take(self.positional) {
            *value = *self.values.add(place);
        }
        let named = if self.names.is_null() { 0 } else { ffi::PyTuple_Size(self.names) as usize };
        for place in 0..named {
            let name = ffi::PyTuple_GetItem(self.names, place as ffi::Py_ssize_t); // borrowed
            let is = |parameter: &&CStr| ffi::PyUnicode_CompareWithASCIIString(name, parameter.as_ptr()) == 0;
            let Some(parameter) = parameters.iter().position(is) else {
                ffi::PyErr_Format(
                    ffi::PyExc_TypeError,
                    c"%s() got an unexpected keyword argument '%U'".as_ptr(),
                    format!("{function}\0").as_ptr(),
                    name,
                );
                return Err(Raised);
            };
            if !found[parameter].is_null() {
                let name = parameters[parameter].to_string_lossy();
                return raise(ffi::PyExc_TypeError, &format!("{function}() got multiple values for argument '{name}'"));
            }
            found[parameter] = *self.values.add(self.positional + place);
        }
        match found.iter().take(required).position(|value| value.is_null()) {
            None => Ok(()),
            Some(missing) => {
                let name = parameters[missing].to_string_lossy();
                raise(
                    ffi::PyExc_TypeError,
                    &format!("{function}() missing required argument '{name}' (pos {})", missing + 1),
                )
            }
        }
    }
}

/// The arguments of a `tp_new`, which come as a tuple and a dict, through `take`.
pub(crate) unsafe fn with_arguments<T>(
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
    take: impl FnOnce(Arguments) -> Result<T>,
) -> Result<T> {
    let mut values: Vec<_> =
        (0..ffi::PyTuple_Size(arguments)).map(|place| ffi::PyTuple_GetItem(arguments, place)).collect();
    let positional = values.len() as ffi::Py_ssize_t;
    if keywords.is_null() || ffi::PyDict_Size(keywords) == 0 {
        return take(Arguments::new(values.as_ptr(), positional, null_mut()));
    }
    let names = Owned::from_raw(ffi::PySequence_Tuple(keywords))?;
    for place in 0..ffi::PyTuple_Size(names.as_ptr()) {
        values.push(ffi::PyDict_GetItem(keywords, ffi::PyTuple_GetItem(names.as_ptr(), place)));
    }
    take(Arguments::new(values.as_ptr(), positional, names.as_ptr()))
}

/// Checks that a type which takes no arguments got none. A subclass may have an `__init__` that takes some.
pub(crate) unsafe fn check_no_arguments(
    name: &str,
    class: *mut ffi::PyTypeObject,
    exact: &core::cell::Cell<*mut ffi::PyObject>,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> Result<()> {
    if exact.get() == class.cast() {
        with_arguments(arguments, keywords, |arguments| arguments.parse::<0>(name, [], 0))?;
    }
    Ok(())
}

/// Whether an optional argument is true; missing means `default`.
pub(crate) unsafe fn truth(object: *mut ffi::PyObject, default: bool) -> Result<bool> {
    if object.is_null() { Ok(default) } else { Ok(check(ffi::PyObject_IsTrue(object))? != 0) }
}

/// An integer that is not negative.
pub(crate) unsafe fn unsigned(object: *mut ffi::PyObject) -> Result<u64> {
    let value = ffi::PyLong_AsUnsignedLongLong(object);
    if value == u64::MAX && !ffi::PyErr_Occurred().is_null() { Err(Raised) } else { Ok(value) }
}

/// Any integer; one whose magnitude is beyond 64 bits is as far away as can be.
pub(crate) unsafe fn integer(object: *mut ffi::PyObject) -> Result<i128> {
    let number = Owned::from_raw(ffi::PyNumber_Index(object))?;
    let mut overflow = 0;
    let value = ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &raw mut overflow);
    if overflow == 0 {
        return if value == -1 && !ffi::PyErr_Occurred().is_null() { Err(Raised) } else { Ok(value.into()) };
    }
    let magnitude = Owned::from_raw(ffi::PyNumber_Absolute(number.as_ptr()))?;
    let value = ffi::PyLong_AsUnsignedLongLong(magnitude.as_ptr());
    if value == u64::MAX && !ffi::PyErr_Occurred().is_null() {
        ffi::PyErr_Clear();
        return Ok(if overflow < 0 { i128::MIN } else { i128::MAX });
    }
    Ok(i128::from(value) * i128::from(overflow.signum()))
}

/// A `str`.
pub(crate) unsafe fn text(text: &str) -> Result<Owned> {
    Owned::from_raw(ffi::PyUnicode_FromStringAndSize(text.as_ptr().cast(), text.len() as ffi::Py_ssize_t))
}

/// The text of a `str`, which lives as long as it does.
pub(crate) unsafe fn utf8<'a>(object: *mut ffi::PyObject) -> Result<&'a str> {
    let mut length = 0;
    let text = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
    if text.is_null() {
        return Err(Raised);
    }
    let bytes = core::slice::from_raw_parts(text.cast(), length as usize);
    core::str::from_utf8(bytes).or_else(|_| raise(ffi::PyExc_SystemError, "CPython's UTF-8 is wrong"))
}

/// `tp_traverse` of objects that hold nothing but their type.
pub(crate) unsafe extern "C" fn traverse_type(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut core::ffi::c_void,
) -> c_int {
    visit(ffi::Py_TYPE(object).cast(), argument)
}

/// What may be in a static although it holds raw pointers: tables that nobody writes to.
#[repr(transparent)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: nobody writes to a value of this type, and the pointers in it lead to statics.
unsafe impl<T> Sync for Shared<T> {}

/// The end of a table of methods.
pub(crate) const METHODS_END: ffi::PyMethodDef = ffi::PyMethodDef::zeroed();

/// The end of a table of attributes.
pub(crate) const ATTRIBUTES_END: ffi::PyGetSetDef =
    ffi::PyGetSetDef { name: core::ptr::null(), get: None, set: None, doc: core::ptr::null(), closure: null_mut() };

/// A function that takes positional and keyword arguments.
pub(crate) type FastFunction = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Describes a function that takes positional and keyword arguments.
pub(crate) const fn method_fast(name: &'static CStr, function: FastFunction, doc: &'static CStr) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: doc.as_ptr(),
    }
}

/// Describes a function without arguments.
pub(crate) const fn method_no_args(
    name: &'static CStr,
    function: ffi::PyCFunction,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: doc.as_ptr(),
    }
}

/// Describes a function whose arguments come as a tuple.
pub(crate) const fn method_tuple(
    name: &'static CStr,
    function: ffi::PyCFunction,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_VARARGS,
        ml_doc: doc.as_ptr(),
    }
}

/// Describes a function with one argument.
pub(crate) const fn method_one(
    name: &'static CStr,
    function: ffi::PyCFunction,
    doc: &'static CStr,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_O,
        ml_doc: doc.as_ptr(),
    }
}

/// Describes `__class_getitem__`, which makes `Queue[int]` an alias.
pub(crate) const CLASS_GET_ITEM: ffi::PyMethodDef = ffi::PyMethodDef {
    ml_name: c"__class_getitem__".as_ptr(),
    ml_meth: ffi::PyMethodDefPointer { PyCFunction: class_get_item },
    ml_flags: ffi::METH_O | ffi::METH_CLASS,
    ml_doc: c"See PEP 585".as_ptr(),
};

unsafe extern "C" fn class_get_item(class: *mut ffi::PyObject, item: *mut ffi::PyObject) -> *mut ffi::PyObject {
    ffi::Py_GenericAlias(class, item)
}
