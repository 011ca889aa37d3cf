//! Keys: how a value begins, as bytes that are in the order of the values.
//!
//! ```text
//!  value      one of                                                        compared
//!   number    NUMBER  8 bytes  (2 bytes)                                    as numbers, of whatever type
//!   text      TEXT    UTF-8, each byte + 1            0                     by code points
//!   bytes     BYTES   00 as 01 01, 01 as 01 02        0                     by bytes
//!   nothing   NOTHING                                                       equal to itself
//!   sequence  TUPLE or LIST   value …                 END                   by the first values that differ
//!   another   OTHER                                                         not at all; the key ends here
//! ```
//!
//! Bytes up to the first one that differs were made of equal values, so that byte means the same in both keys. If it
//! is a tag, then the values are of different classes: only END is in an order with others (the shorter sequence comes
//! first), the rest is the binding's business. Otherwise the byte decides. If one key ends before a byte differs, it was
//! cut off, by its length or by OTHER, and the binding's to compare, too.
//!
//! A number begins with the largest 64-bit float that is not above it. From 2^53 on, integers lie between two floats, and
//! how far the integer is above the float follows. So integers and floats are in one order, exactly.
#![forbid(unsafe_code)]

use core::cmp::Ordering;

/// Bytes of a key.
pub const KEY_BYTES: usize = 40;
/// Words of a key.
pub(crate) const KEY_WORDS: usize = INFO + 1;
/// The word that tells what the others are.
const INFO: usize = KEY_BYTES / 8;

/// The end of a sequence. Below every other tag.
const END: u8 = 0;
const NUMBER: u8 = 1;
const TEXT: u8 = 2;
const BYTES: u8 = 3;
const NOTHING: u8 = 4;
const TUPLE: u8 = 5;
const LIST: u8 = 6;
const OTHER: u8 = 7;

/// From here on, not every integer is a float.
const EXACT: f64 = (1_u64 << 53) as f64;

/// In the last word: the whole value is in the key.
const WHOLE: u64 = 1 << 63;
/// There, too: how many bytes there are. Below it, a bit for each byte that is a tag.
const LENGTH_SHIFT: u32 = 48;

/// The kinds of sequences, which are in no order with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequence {
    /// A `tuple`.
    Tuple,
    /// A `list`.
    List,
}

/// How a value begins.
///
/// The bytes are in big-endian words, so that numbers are compared instead of bytes. The last word is `WHOLE`, the
/// length, and the places of tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key(pub(crate) [u64; KEY_WORDS]);

impl Key {
    /// How the two values are ordered; None if that cannot be told from their keys.
    #[inline]
    pub fn compare(&self, other: &Key) -> Option<Ordering> {
        compare(|word| self.0[word], |word| other.0[word])
    }
}

/// [`Key::compare`] of keys whose words lie somewhere else.
#[inline(always)]
pub(crate) fn compare(mine: impl Fn(usize) -> u64, others: impl Fn(usize) -> u64) -> Option<Ordering> {
    let (my_info, others_info) = (mine(INFO), others(INFO));
    for word in 0..INFO {
        let (mine, others) = (mine(word), others(word));
        if mine == others {
            continue;
        }
        let byte = (mine ^ others).leading_zeros() / 8;
        let place = 8 * word as u32 + byte;
        let ended = |word: u64| (word >> (56 - 8 * byte)) as u8 == END;
        let is_cut = place >= length(my_info).min(length(others_info));
        let is_tag = my_info >> place & 1 != 0;
        return if is_cut || is_tag && !ended(mine) && !ended(others) { None } else { Some(mine.cmp(&others)) };
    }
    (my_info == others_info && my_info & WHOLE != 0).then_some(Ordering::Equal)
}

const fn length(info: u64) -> u32 {
    (info >> LENGTH_SHIFT) as u32 & 0x3F
}

/// Makes a key, value by value, until the key is full or a value is of a class that it does not know.
#[derive(Debug, Default)]
pub struct Encoder {
    key: Key,
    length: u32,
    is_cut: bool,
}

impl Encoder {
    /// Whether what follows cannot change the key any more.
    #[inline]
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        if self.length as usize == KEY_BYTES {
            self.is_cut = true;
        }
        if !self.is_cut {
            self.key.0[self.length as usize / 8] |= u64::from(byte) << (56 - 8 * (self.length % 8));
            self.length += 1;
        }
    }

    #[inline]
    fn push_word(&mut self, value: u64) {
        if self.is_cut {
            return;
        }
        let (word, bits) = (self.length as usize / 8, 8 * (self.length % 8));
        if word < INFO {
            self.key.0[word] |= value >> bits;
        }
        if word + 1 < INFO && bits > 0 {
            self.key.0[word + 1] |= value << (64 - bits);
        }
        self.length += 8;
        if self.length as usize > KEY_BYTES {
            self.length = KEY_BYTES as u32;
            self.is_cut = true;
        }
    }

    #[inline]
    fn push_tag(&mut self, tag: u8) {
        if !self.is_cut && (self.length as usize) < KEY_BYTES {
            self.key.0[INFO] |= 1 << self.length;
        }
        self.push(tag);
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        let mut order = order(value as f64);
        if value as f64 as i128 > i128::from(value) {
            order -= 1; // it was rounded up: the float before
        }
        let above = i128::from(value) - float(order) as i128;
        self.number(order, above as u16);
    }

    /// A float.
    #[inline]
    pub fn float(&mut self, value: f64) {
        if value.is_nan() {
            return self.other(); // in no order with any number
        }
        self.number(order(value), 0);
    }

    #[inline]
    fn number(&mut self, order: u64, above: u16) {
        self.push_tag(NUMBER);
        self.push_word(order);
        if float(order).abs() >= EXACT {
            above.to_be_bytes().into_iter().for_each(|byte| self.push(byte));
        }
    }

    /// A text, as its code points, surrogates included.
    pub fn text(&mut self, points: impl Iterator<Item = u32>) {
        self.push_tag(TEXT);
        for point in points {
            let lead = [(0x80, 0x00, 0), (0x800, 0xC0, 6), (0x1_0000, 0xE0, 12), (u32::MAX, 0xF0, 18)];
            let Some((_, mark, mut shift)) = lead.into_iter().find(|(end, ..)| point < *end) else { break };
            self.push((mark | point >> shift) as u8 + 1);
            while shift > 0 {
                shift -= 6;
                self.push((0x80 | point >> shift & 0x3F) as u8 + 1);
            }
            if self.is_cut {
                return;
            }
        }
        self.push(0);
    }

    /// Bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.push_tag(BYTES);
        for byte in bytes {
            if *byte <= 1 {
                self.push(1);
                self.push(byte + 1);
            } else {
                self.push(*byte);
            }
            if self.is_cut {
                return;
            }
        }
        self.push(0);
    }

    /// What is equal to itself and in no order with anything.
    #[inline]
    pub fn nothing(&mut self) {
        self.push_tag(NOTHING);
    }

    /// The beginning of a sequence; its values follow.
    #[inline]
    pub fn open(&mut self, sequence: Sequence) {
        self.push_tag(if sequence == Sequence::Tuple { TUPLE } else { LIST });
    }

    /// The end of a sequence.
    #[inline]
    pub fn close(&mut self) {
        self.push_tag(END);
    }

    /// A value of any other class, with which the key ends.
    #[inline]
    pub fn other(&mut self) {
        self.push_tag(OTHER);
        self.is_cut = true;
    }

    /// The key of what was encoded.
    #[inline]
    pub fn finish(mut self) -> Key {
        self.key.0[INFO] |= u64::from(self.length) << LENGTH_SHIFT | if self.is_cut { 0 } else { WHOLE };
        self.key
    }
}

/// A float's place among all others.
#[inline]
fn order(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits(); // -0.0 is 0.0
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The float of that place.
#[inline]
fn float(order: u64) -> f64 {
    f64::from_bits(if order >> 63 == 0 { !order } else { order & !(1 << 63) })
}

const _: () = assert!(KEY_BYTES as u32 <= LENGTH_SHIFT && KEY_BYTES % 8 == 0);
