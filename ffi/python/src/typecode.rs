//! Typecodes: what an element of a `Value` or an `Array` is to Python, and to the machine.
//!
//! They are those of `array` and of `multiprocessing.sharedctypes`, with `array`'s ranges and errors.

use core::ffi::{CStr, c_int, c_long, c_longlong, c_short};

use multigil::memory::Format;
use pyo3::ffi;

use crate::py::{self, Owned, Raised, Result, raise};

/// One of the types that an element can have.
#[derive(Debug)]
pub(crate) struct Typecode {
    /// The character, and what `struct` and the buffer protocol call it.
    pub(crate) code: &'static CStr,
    width: u32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A `bytes` object of length 1.
    Char,
    Bool,
    Integer {
        least: i128,
        most: i128,
        too_small: &'static str,
        too_large: &'static str,
    },
    Float,
}

const fn signed(code: &'static CStr, bytes: usize, too_small: &'static str, too_large: &'static str) -> Typecode {
    let most = (1 << (8 * bytes - 1)) - 1;
    Typecode { code, width: bytes as u32, kind: Kind::Integer { least: -most - 1, most, too_small, too_large } }
}

const fn unsigned(code: &'static CStr, bytes: usize, too_small: &'static str, too_large: &'static str) -> Typecode {
    let most = (1 << (8 * bytes)) - 1;
    Typecode { code, width: bytes as u32, kind: Kind::Integer { least: 0, most, too_small, too_large } }
}

const NO_LONG: &str = "Python int too large to convert to C long";
const NO_LONG_LONG: &str = "int too big to convert";
const NEGATIVE: &str = "can't convert negative value to unsigned int";

static TYPECODES: [Typecode; 14] = [
    Typecode { code: c"c", width: 1, kind: Kind::Char },
    signed(c"b", 1, "signed char is less than minimum", "signed char is greater than maximum"),
    unsigned(c"B", 1, "unsigned byte integer is less than minimum", "unsigned byte integer is greater than maximum"),
    signed(
        c"h",
        size_of::<c_short>(),
        "signed short integer is less than minimum",
        "signed short integer is greater than maximum",
    ),
    unsigned(
        c"H",
        size_of::<c_short>(),
        "unsigned short is less than minimum",
        "unsigned short is greater than maximum",
    ),
    signed(c"i", size_of::<c_int>(), "signed integer is less than minimum", "signed integer is greater than maximum"),
    unsigned(c"I", size_of::<c_int>(), NEGATIVE, "unsigned int is greater than maximum"),
    signed(c"l", size_of::<c_long>(), NO_LONG, NO_LONG),
    unsigned(c"L", size_of::<c_long>(), NEGATIVE, "Python int too large to convert to C unsigned long"),
    signed(c"q", size_of::<c_longlong>(), NO_LONG_LONG, NO_LONG_LONG),
    unsigned(c"Q", size_of::<c_longlong>(), "can't convert negative int to unsigned", NO_LONG_LONG),
    Typecode { code: c"f", width: 4, kind: Kind::Float },
    Typecode { code: c"d", width: 8, kind: Kind::Float },
    Typecode { code: c"?", width: 1, kind: Kind::Bool },
];

/// What can be done to an element in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Subtract,
    And,
    Or,
    Xor,
}

/// What it is done with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand {
    Integer(i128),
    Float(f64),
}

impl Typecode {
    /// The type of that name: a character, or a type of `ctypes` that has one.
    pub(crate) unsafe fn of(object: *mut ffi::PyObject) -> Result<&'static Typecode> {
        if ffi::PyUnicode_Check(object) != 0 {
            return Typecode::named(object);
        }
        if ffi::PyType_Check(object) != 0 {
            match Owned::from_raw(ffi::PyObject_GetAttrString(object, c"_type_".as_ptr())) {
                Ok(name) if ffi::PyUnicode_Check(name.as_ptr()) != 0 => return Typecode::named(name.as_ptr()),
                Ok(_) => {}
                Err(Raised) => ffi::PyErr_Clear(),
            }
        }
        let text = c"typecode must be a character or a type of ctypes, not %R";
        ffi::PyErr_Format(ffi::PyExc_TypeError, text.as_ptr(), object);
        Err(Raised)
    }

    unsafe fn named(name: *mut ffi::PyObject) -> Result<&'static Typecode> {
        let is = |known: &&Typecode| ffi::PyUnicode_CompareWithASCIIString(name, known.code.as_ptr()) == 0;
        match TYPECODES.iter().find(is) {
            Some(known) => Ok(known),
            None => {
                let text = "bad typecode (must be c, b, B, h, H, i, I, l, L, q, Q, f, d or ?)";
                raise(ffi::PyExc_ValueError, text)
            }
        }
    }

    /// The type of a memory's elements, if they have one.
    pub(crate) fn of_format(format: Format) -> Option<&'static Typecode> {
        TYPECODES.iter().find(|known| known.format() == format)
    }

    /// What the engine knows of it.
    #[inline]
    pub(crate) fn format(&self) -> Format {
        Format { meaning: self.code.to_bytes()[0].into(), width: self.width }
    }

    /// Whether it is 'c', of which several make a `bytes` object.
    pub(crate) fn is_char(&self) -> bool {
        matches!(self.kind, Kind::Char)
    }

    /// Makes an object of an element.
    pub(crate) unsafe fn object(&self, bits: u64) -> Result<Owned> {
        Owned::from_raw(match self.kind {
            Kind::Char => ffi::PyBytes_FromStringAndSize([bits as u8].as_ptr().cast(), 1),
            Kind::Bool => return Ok(Owned::bool(bits != 0)),
            Kind::Integer { least: 0, .. } => ffi::PyLong_FromUnsignedLongLong(bits),
            Kind::Integer { .. } => ffi::PyLong_FromLongLong(self.number(bits) as i64),
            Kind::Float => ffi::PyFloat_FromDouble(self.float(bits)),
        })
    }

    /// Makes an element of an object. Raises OverflowError and TypeError, as `array` does.
    pub(crate) unsafe fn bits(&self, object: *mut ffi::PyObject) -> Result<u64> {
        match self.kind {
            Kind::Char => char(object),
            Kind::Bool => Ok(py::truth(object, false)?.into()),
            Kind::Integer { .. } => {
                self.in_range(py::integer(object)?).or_else(|text| raise(ffi::PyExc_OverflowError, text))
            }
            Kind::Float => Ok(self.bits_of_float(float(object)?)),
        }
    }

    /// What an operation is to be done with. Raises TypeError if it can't be done with elements of this type.
    pub(crate) unsafe fn operand(&self, operation: Operation, object: *mut ffi::PyObject) -> Result<Operand> {
        let is_sum = matches!(operation, Operation::Add | Operation::Subtract);
        match self.kind {
            Kind::Integer { .. } => {
                let number = py::integer(object)?;
                if !is_sum && matches!(number, i128::MIN | i128::MAX) {
                    self.in_range(number).or_else(|text| raise(ffi::PyExc_OverflowError, text))?;
                }
                Ok(Operand::Integer(number))
            }
            Kind::Bool if !is_sum => Ok(Operand::Integer(py::truth(object, false)?.into())),
            Kind::Float if is_sum => Ok(Operand::Float(float(object)?)),
            _ => {
                let code = self.code.to_string_lossy();
                raise(ffi::PyExc_TypeError, &format!("elements of typecode '{code}' have no such operation"))
            }
        }
    }

    /// What an operation makes of an element; if that is not in the type's range, the text for an OverflowError.
    #[inline]
    pub(crate) fn apply(&self, operation: Operation, bits: u64, operand: Operand) -> core::result::Result<u64, &str> {
        let (old, operand) = match operand {
            Operand::Integer(operand) => (self.number(bits), operand),
            Operand::Float(operand) => {
                let operand = if operation == Operation::Add { operand } else { -operand };
                return Ok(self.bits_of_float(self.float(bits) + operand));
            }
        };
        self.in_range(match operation {
            Operation::Add => old.saturating_add(operand),
            Operation::Subtract => old.saturating_sub(operand),
            Operation::And => old & operand,
            Operation::Or => old | operand,
            Operation::Xor => old ^ operand,
        })
    }

    /// A number's bits, or the text for an OverflowError.
    #[inline]
    fn in_range(&self, number: i128) -> core::result::Result<u64, &'static str> {
        match self.kind {
            Kind::Integer { least, too_small, .. } if number < least => Err(too_small),
            Kind::Integer { most, too_large, .. } if number > most => Err(too_large),
            _ => Ok(number as u64),
        }
    }

    /// The number that bits are, unless they are a `float`'s.
    #[inline]
    fn number(&self, bits: u64) -> i128 {
        match self.kind {
            Kind::Integer { least, .. } if least < 0 => {
                let unused = 64 - 8 * self.width;
                i128::from((bits << unused) as i64 >> unused)
            }
            _ => bits.into(),
        }
    }

    fn float(&self, bits: u64) -> f64 {
        if self.width == 4 { f32::from_bits(bits as u32).into() } else { f64::from_bits(bits) }
    }

    fn bits_of_float(&self, number: f64) -> u64 {
        if self.width == 4 { (number as f32).to_bits().into() } else { number.to_bits() }
    }
}

unsafe fn float(object: *mut ffi::PyObject) -> Result<f64> {
    let number = ffi::PyFloat_AsDouble(object);
    if number == -1.0 && !ffi::PyErr_Occurred().is_null() { Err(Raised) } else { Ok(number) }
}

/// One character, in each of the ways that `ctypes` takes it.
unsafe fn char(object: *mut ffi::PyObject) -> Result<u64> {
    if ffi::PyLong_Check(object) != 0 {
        let number = u8::try_from(py::integer(object)?).map(u64::from);
        return number.or_else(|_| raise(ffi::PyExc_TypeError, "integer not in range(256)"));
    }
    if ffi::PyBytes_Check(object) != 0 && ffi::PyBytes_Size(object) == 1 {
        return Ok((*ffi::PyBytes_AsString(object).cast::<u8>()).into());
    }
    if ffi::PyByteArray_Check(object) != 0 && ffi::PyByteArray_Size(object) == 1 {
        return Ok((*ffi::PyByteArray_AsString(object).cast::<u8>()).into());
    }
    let text = c"one character bytes, bytearray, or an integer in range(256) expected, not %s";
    ffi::PyErr_Format(ffi::PyExc_TypeError, text.as_ptr(), (*ffi::Py_TYPE(object)).tp_name);
    Err(Raised)
}
