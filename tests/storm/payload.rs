//! Messages that say which they are, and of which every byte is known.

use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::object::{Message, Region};

use crate::support::payload;

/// Which message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) stream: usize,
    pub(crate) number: u64,
}

impl Number {
    fn word(self) -> u64 {
        (self.stream as u64 + 1) << 32 | self.number
    }

    /// Its length: 0 bytes to 1 MiB, mostly short.
    fn length(self) -> usize {
        let random = self.word().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let rest = (random >> 12) as usize;
        match random % 1024 {
            0 => 1 << 20,
            1..32 => 8 + rest % (64 << 10),
            32..64 => 0,
            64..256 => 8 + rest % 4096,
            _ => 8 + rest % 112,
        }
    }

    /// Whether it has no bytes, and so can't be told from others.
    pub(crate) fn is_empty(self) -> bool {
        self.length() == 0
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = payload(self.word(), self.length());
        bytes.iter_mut().zip(self.word().to_ne_bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    pub(crate) fn message(self, region: &Region, me: PeerId) -> Message<'_> {
        let bytes = self.bytes();
        let mut message = Message::new(region, me);
        message.allocate(1, bytes.len(), &[]).expect("there is memory");
        message.write(0, &bytes);
        message
    }

    /// Which message it is, whose every byte is as it was put; None if it has none.
    pub(crate) fn of(message: &Message<'_>) -> Option<Number> {
        let mut bytes = vec![0; message.length()];
        message.read(0, &mut bytes);
        let word = u64::from_ne_bytes(bytes.get(..8)?.try_into().expect("eight bytes"));
        let number = Number { stream: (word >> 32).wrapping_sub(1) as usize, number: word & 0xFFFF_FFFF };
        assert!(number.bytes() == bytes, "half a message was delivered: {number:?}, {} bytes", bytes.len());
        Some(number)
    }
}

/// A message that leads to a queue, and keeps it alive.
pub(crate) fn reference(region: &Region, me: PeerId, id: ObjectId) -> Message<'_> {
    let mut message = Message::new(region, me);
    message.allocate(2, 8, &[(id, ObjectKind::Queue)]).expect("there is memory");
    message.write(0, bytemuck::bytes_of(&id));
    message
}

/// The queue that such a message leads to.
pub(crate) fn referred(message: &Message<'_>) -> ObjectId {
    let mut id = [0; 8];
    assert_eq!(message.length(), id.len());
    message.read(0, &mut id);
    bytemuck::cast(id)
}
