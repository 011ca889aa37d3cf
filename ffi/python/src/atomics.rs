//! What `Value` and `Array` have in common: what can be done to an element in one step, waiting for its change, a lock.
//!
//! The functions are made twice, by `INDEXED`: an array's take the index of the element as their first argument.

use core::ffi::{CStr, c_void};
use core::ptr::{null, null_mut};

use multigil::error::WaitError;
use multigil::memory::Element;
use multigil::object::{Handle, SharedMemory};
use pyo3::ffi;

use crate::errors;
use crate::handle::HandleObject;
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;
use crate::typecode::{Operation, Typecode};
use crate::wait::{self, Subject};

pub(crate) type Object = HandleObject<SharedMemory>;

/// The memory of an object, and what its elements are.
#[inline(always)]
pub(crate) unsafe fn elements<'a>(
    object: *mut ffi::PyObject,
) -> Result<(&'static State, &'a Handle<'static, SharedMemory>, &'static Typecode)> {
    let (state, memory) = Object::of(object);
    match Typecode::of_format(memory.format()) {
        Some(typecode) => Ok((state, memory, typecode)),
        None => errors::corrupt(state, "the memory has no elements"),
    }
}

/// An element, and all that has to do with it.
pub(crate) struct Cell<'a> {
    state: &'static State,
    memory: &'a Handle<'static, SharedMemory>,
    typecode: &'static Typecode,
    place: usize,
    element: Element<'a>,
}

impl<'a> Cell<'a> {
    /// The element at that place; None if there is none.
    #[inline(always)]
    pub(crate) unsafe fn at(object: *mut ffi::PyObject, place: usize) -> Result<Option<Cell<'a>>> {
        let (state, memory, typecode) = elements(object)?;
        Ok(memory.element(place).map(|element| Cell { state, memory, typecode, place, element }))
    }

    /// A value's only element.
    #[inline(always)]
    pub(crate) unsafe fn only(object: *mut ffi::PyObject) -> Result<Cell<'a>> {
        match Cell::at(object, 0)? {
            Some(cell) => Ok(cell),
            None => errors::corrupt(Object::of(object).0, "the value has no element"),
        }
    }

    /// An array's element by its index. Raises IndexError with that text.
    pub(crate) unsafe fn indexed(
        object: *mut ffi::PyObject,
        index: *mut ffi::PyObject,
        text: &str,
    ) -> Result<Cell<'a>> {
        if ffi::PyIndex_Check(index) == 0 {
            return raise(ffi::PyExc_TypeError, "array indices must be integers");
        }
        let place = ffi::PyNumber_AsSsize_t(index, ffi::PyExc_IndexError);
        if place == -1 && !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        // Negative ones count from the end; those that still are negative are beyond any array as unsigned numbers.
        let place = if place < 0 { place.wrapping_add_unsigned(Object::of(object).1.elements()) } else { place };
        match Cell::at(object, place as usize)? {
            Some(cell) => Ok(cell),
            None => raise(ffi::PyExc_IndexError, text),
        }
    }

    /// The element as an object.
    #[inline]
    pub(crate) unsafe fn get(&self) -> Result<Owned> {
        self.typecode.object(self.element.load())
    }

    /// Makes the element what an object is.
    #[inline]
    pub(crate) unsafe fn set(&self, value: *mut ffi::PyObject) -> Result<()> {
        self.element.store(self.typecode.bits(value)?);
        Ok(())
    }

    #[inline(always)]
    unsafe fn exchange(&self, value: *mut ffi::PyObject) -> Result<Owned> {
        self.typecode.object(self.element.swap(self.typecode.bits(value)?))
    }

    unsafe fn compare_exchange(&self, expected: *mut ffi::PyObject, new: *mut ffi::PyObject) -> Result<bool> {
        let (expected, new) = (self.typecode.bits(expected)?, self.typecode.bits(new)?);
        Ok(self.element.compare_exchange(expected, new))
    }

    #[inline(always)]
    unsafe fn update(&self, operation: Operation, operand: *mut ffi::PyObject) -> Result<Owned> {
        let operand = self.typecode.operand(operation, operand)?;
        match self.element.update(|bits| self.typecode.apply(operation, bits, operand)) {
            Ok(old) => self.typecode.object(old),
            Err(text) => raise(ffi::PyExc_OverflowError, text),
        }
    }

    unsafe fn wait(&self, expected: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<bool> {
        let expected = self.typecode.bits(expected)?;
        let deadline = wait::join_timeout(timeout)?;
        let changed = || (self.element.load() != expected).then_some(());
        if changed().is_some() {
            return Ok(true);
        }
        let changes = self.memory.changes(self.place);
        let result = wait::wait(
            self.state,
            Subject::of(self.memory),
            deadline,
            |patience| changes.wait_until(patience, changed),
            |error| *error == WaitError::Interrupted,
        )?;
        Ok(result.is_ok())
    }

    fn notify(&self, count: u32) {
        self.memory.changes(self.place).notify(count);
    }
}

/// The element and the other arguments of a call.
#[inline(always)]
unsafe fn call<'a, const INDEXED: bool, const COUNT: usize>(
    object: *mut ffi::PyObject,
    arguments: Arguments,
    function: &str,
    parameters: [&CStr; COUNT],
    required: usize,
) -> Result<(Cell<'a>, [*mut ffi::PyObject; COUNT])> {
    if !INDEXED {
        let found = arguments.parse(function, parameters, required)?;
        return Ok((Cell::only(object)?, found));
    }
    let (mut all, mut found) = ([c"index"; MOST + 1], [null_mut(); MOST + 1]);
    all[1..=COUNT].copy_from_slice(&parameters);
    arguments.parse_into(function, &all[..=COUNT], required + 1, &mut found[..=COUNT])?;
    let cell = Cell::indexed(object, found[0], "array index out of range")?;
    Ok((cell, core::array::from_fn(|place| found[place + 1])))
}

/// The most arguments that a function takes, beside an index.
const MOST: usize = 2;

const OPERATIONS: [(Operation, &str); 5] = [
    (Operation::Add, "fetch_add"),
    (Operation::Subtract, "fetch_sub"),
    (Operation::And, "fetch_and"),
    (Operation::Or, "fetch_or"),
    (Operation::Xor, "fetch_xor"),
];
pub(crate) const ADD: usize = 0;
pub(crate) const SUBTRACT: usize = 1;
pub(crate) const AND: usize = 2;
pub(crate) const OR: usize = 3;
pub(crate) const XOR: usize = 4;

pub(crate) unsafe extern "C" fn fetch<const INDEXED: bool, const OPERATION: usize>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let (operation, function) = OPERATIONS[OPERATION];
        let arguments = Arguments::new(values, count, names);
        let (cell, [n]) = call::<INDEXED, 1>(object, arguments, function, [c"n"], 1)?;
        cell.update(operation, n)
    })
}

pub(crate) unsafe extern "C" fn exchange<const INDEXED: bool>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let arguments = Arguments::new(values, count, names);
        let (cell, [value]) = call::<INDEXED, 1>(object, arguments, "exchange", [c"value"], 1)?;
        cell.exchange(value)
    })
}

pub(crate) unsafe extern "C" fn compare_exchange<const INDEXED: bool>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let arguments = Arguments::new(values, count, names);
        let parameters = [c"expected", c"new"];
        let (cell, [expected, new]) = call::<INDEXED, 2>(object, arguments, "compare_exchange", parameters, 2)?;
        cell.compare_exchange(expected, new)
    })
}

pub(crate) unsafe extern "C" fn wait<const INDEXED: bool>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let arguments = Arguments::new(values, count, names);
        let (cell, [expected, timeout]) = call::<INDEXED, 2>(object, arguments, "wait", [c"expected", c"timeout"], 1)?;
        cell.wait(expected, timeout)
    })
}

pub(crate) unsafe extern "C" fn notify<const INDEXED: bool>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let arguments = Arguments::new(values, count, names);
        let (cell, [n]) = call::<INDEXED, 1>(object, arguments, "notify", [c"n"], 0)?;
        let n = if n.is_null() { 1 } else { py::integer(n)? };
        if n < 1 {
            return raise(ffi::PyExc_ValueError, "n must be one or more");
        }
        cell.notify(u32::try_from(n).unwrap_or(u32::MAX));
        Ok(())
    })
}

pub(crate) unsafe extern "C" fn notify_all<const INDEXED: bool>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let (cell, []) = call::<INDEXED, 0>(object, Arguments::new(values, count, names), "notify_all", [], 0)?;
        cell.notify(u32::MAX);
        Ok(())
    })
}

// ------------------------------------------------------------------------------------------------- the lock

/// What the argument `lock` of a constructor means; it may be null.
pub(crate) unsafe fn lock_argument(state: &State, lock: *mut ffi::PyObject) -> Result<Option<Owned>> {
    if lock.is_null() || lock == ffi::Py_True() || lock == ffi::Py_None() {
        return state.object(&state.objects.rlock_type)?.call(&[]).map(Some);
    }
    if lock == ffi::Py_False() {
        return Ok(None);
    }
    if ffi::PyObject_HasAttrString(lock, c"acquire".as_ptr()) == 0 {
        ffi::PyErr_Format(ffi::PyExc_AttributeError, c"%R has no method 'acquire'".as_ptr(), lock);
        return Err(Raised);
    }
    Ok(Some(Owned::from_borrowed(lock)))
}

unsafe fn lock_of(object: *mut ffi::PyObject) -> Result<Owned> {
    match Object::companion(object) {
        Some(lock) => Ok(lock),
        None => raise(ffi::PyExc_AttributeError, "there is no lock: it was made with lock=False"),
    }
}

/// Runs `body` with the lock held, if there is one.
pub(crate) unsafe fn locked<T>(object: *mut ffi::PyObject, body: impl FnOnce() -> T) -> Result<T> {
    let Some(lock) = Object::companion(object) else { return Ok(body()) };
    lock.attribute(c"acquire")?.call(&[])?;
    let result = body();
    lock.attribute(c"release")?.call(&[])?;
    Ok(result)
}

/// Calls a method of the lock with whatever arguments there are.
unsafe fn call_lock(
    object: *mut ffi::PyObject,
    method: &CStr,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let method = lock_of(object)?.attribute(method)?;
        Owned::from_raw(ffi::PyObject_Vectorcall(method.as_ptr(), values, count as usize, names))
    })
}

pub(crate) unsafe extern "C" fn acquire(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call_lock(object, c"acquire", values, count, names)
}

pub(crate) unsafe extern "C" fn exit(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call_lock(object, c"__exit__", values, count, names)
}

pub(crate) unsafe extern "C" fn release(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call_lock(object, c"release", null(), 0, null_mut())
}

pub(crate) unsafe extern "C" fn enter(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call_lock(object, c"__enter__", null(), 0, null_mut())
}

pub(crate) unsafe extern "C" fn get_lock(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| lock_of(object))
}

pub(crate) unsafe extern "C" fn get_obj(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Ok(Owned::from_borrowed(object)))
}

// ------------------------------------------------------------------------------------------------- the tables

/// A function's signature and what it does.
macro_rules! about {
    ($($part:expr),*) => {
        match core::ffi::CStr::from_bytes_with_nul(concat!($($part,)* "\0").as_bytes()) {
            Ok(about) => about,
            Err(_) => panic!("a zero in a text"),
        }
    };
}
pub(crate) use about;

/// The methods of a type: of `INDEXED`, with what the index is in signatures, and what an element is called.
macro_rules! atomic_methods {
    ($indexed:literal, $index:literal, $it:literal) => {{
        use $crate::atomics::{self, about};
        use $crate::{handle, py};
        [
            py::method_fast(
                c"fetch_add",
                atomics::fetch::<$indexed, { atomics::ADD }>,
                about!(
                    "fetch_add($self",
                    $index,
                    ", n)\n--\n\nAdd n to ",
                    $it,
                    " in one step, and give what it was before.\n\n\
Raises OverflowError if the sum is not in the typecode's range, and TypeError if there are no sums of the typecode; ",
                    $it,
                    "\n\
stays as it is then."
                ),
            ),
            py::method_fast(
                c"fetch_sub",
                atomics::fetch::<$indexed, { atomics::SUBTRACT }>,
                about!("fetch_sub($self", $index, ", n)\n--\n\nAs fetch_add, but subtract n."),
            ),
            py::method_fast(
                c"fetch_and",
                atomics::fetch::<$indexed, { atomics::AND }>,
                about!(
                    "fetch_and($self",
                    $index,
                    ", n)\n--\n\nAs fetch_add, but keep the bits that n has too. Not for floats."
                ),
            ),
            py::method_fast(
                c"fetch_or",
                atomics::fetch::<$indexed, { atomics::OR }>,
                about!(
                    "fetch_or($self",
                    $index,
                    ", n)\n--\n\nAs fetch_add, but set the bits that n has. Not for floats."
                ),
            ),
            py::method_fast(
                c"fetch_xor",
                atomics::fetch::<$indexed, { atomics::XOR }>,
                about!(
                    "fetch_xor($self",
                    $index,
                    ", n)\n--\n\nAs fetch_add, but flip the bits that n has. Not for floats."
                ),
            ),
            py::method_fast(
                c"exchange",
                atomics::exchange::<$indexed>,
                about!(
                    "exchange($self",
                    $index,
                    ", value)\n--\n\nSet ",
                    $it,
                    " in one step, and give what it was before."
                ),
            ),
            py::method_fast(
                c"compare_exchange",
                atomics::compare_exchange::<$indexed>,
                about!(
                    "compare_exchange($self",
                    $index,
                    ", expected, new)\n--\n\n\
If ",
                    $it,
                    " is the expected one, make it the new one, all in one step; whether it was.\n\n\
Floats are compared bit by bit: 0.0 is not -0.0, and nan is nan."
                ),
            ),
            py::method_fast(
                c"wait",
                atomics::wait::<$indexed>,
                about!(
                    "wait($self",
                    $index,
                    ", expected, timeout=None)\n--\n\n\
Wait until ",
                    $it,
                    " is not the expected one, at most timeout seconds if that is not None; whether it is another.\n\n\
Whoever changes it has to call notify() or notify_all() afterwards. It is compared as by compare_exchange()."
                ),
            ),
            py::method_fast(
                c"notify",
                atomics::notify::<$indexed>,
                about!(
                    "notify($self",
                    $index,
                    ", n=1)\n--\n\n\
Wake n of those who wait until ",
                    $it,
                    " is not what it was, if there are as many. More may wake."
                ),
            ),
            py::method_fast(
                c"notify_all",
                atomics::notify_all::<$indexed>,
                about!("notify_all($self", $index, ")\n--\n\nWake all who wait until ", $it, " is not what it was."),
            ),
            py::method_fast(c"acquire", atomics::acquire, c"Take the lock, as its own acquire does."),
            py::method_no_args(c"release", atomics::release, c"release($self)\n--\n\nGive the lock back."),
            py::method_no_args(c"__enter__", atomics::enter, c"Take the lock."),
            py::method_fast(c"__exit__", atomics::exit, c"Give the lock back."),
            py::method_no_args(
                c"get_lock",
                atomics::get_lock,
                c"get_lock($self)\n--\n\nGive the lock. Raises AttributeError if it was made with lock=False.",
            ),
            py::method_no_args(c"get_obj", atomics::get_obj, c"get_obj($self)\n--\n\nGive the object itself."),
            py::method_no_args(c"__reduce__", handle::reduce::<SharedMemory>, c"Pickle it by its id."),
            py::METHODS_END,
        ]
    }};
}
pub(crate) use atomic_methods;

unsafe extern "C" fn get_typecode(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyUnicode_FromString(elements(object)?.2.code.as_ptr())))
}

/// The attribute that both have.
pub(crate) const TYPECODE: ffi::PyGetSetDef = ffi::PyGetSetDef {
    name: c"typecode".as_ptr(),
    get: Some(get_typecode),
    set: None,
    doc: c"The character that says what it holds.".as_ptr(),
    closure: null_mut(),
};
