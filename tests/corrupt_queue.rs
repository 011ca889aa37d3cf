//! A queue that somebody wrote over: everything ends, with an error or without, and nothing panics.

#![expect(unsafe_code, reason = "it writes over memory")]
#![expect(clippy::disallowed_types, reason = "somebody who writes over memory does so behind the engine's back")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use multigil::control::AnyQueue;
use multigil::layout::PeerId;
use multigil::object::{Message, Region};
use multigil::queue::Queue;

use crate::support::{limit, payload};

/// Random numbers: Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// What a word might become: something near, something plausible, or anything.
    fn value(&mut self, word: u64, words: &[&AtomicU64]) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX,
            2 => word.wrapping_add(self.next() % 5).wrapping_sub(2),
            3 => word ^ 1 << (self.next() % 64),
            4 => words[self.below(words.len())].load(Ordering::Relaxed),
            5 => self.next() % 5000,
            6 => word & 0xFFFF | self.next() << 16,
            _ => self.next(),
        }
    }
}

/// The words between two addresses in a region's first segment.
fn words(region: &Region, from: usize, bytes: usize) -> Vec<&AtomicU64> {
    let (start, length) = region.segments()[0];
    assert!(from >= start as usize && from + bytes <= start as usize + length);
    // SAFETY: the words are in memory that stays mapped as long as the region, and whatever else changes them is atomic.
    let word = |place: usize| unsafe { AtomicU64::from_ptr((from + 8 * place) as *mut u64) };
    (0..bytes / 8).map(word).collect()
}

/// Where a word with this value is: in a slot of the queue's ring.
fn find(region: &Region, value: u64) -> usize {
    let (start, length) = region.segments()[0];
    let from = start as usize;
    let all = words(region, from, length.min(4 << 20));
    from + 8 * all.iter().position(|word| word.load(Ordering::Relaxed) == value).expect("the message is there")
}

fn put(queue: &Queue, region: &Region, me: PeerId, number: u64) {
    let mut message = Message::new(region, me);
    if number % 3 == 0 {
        if message.set_bytes(1, &payload(number, 300)).is_err() {
            return;
        }
    } else {
        message.set_word(1, number);
    }
    let _ = queue.put(&mut message, region, me, None);
}

fn use_it(queue: &Queue, region: &Region, me: PeerId, random: &mut Random) {
    let mut message = Message::new(region, me);
    for _ in 0..40 {
        match random.below(12) {
            0..=3 => put(queue, region, me, random.next()),
            4..=6 => _ = queue.get(&mut message, region, me, None).is_ok(),
            7 => _ = queue.peek(&mut message, region, me, None).is_ok(),
            8 => {
                let mut batch = queue.batch(region, me);
                (0..5).for_each(|_| _ = batch.get(&mut message, None));
            }
            9 => {
                let _ = (queue.len(), queue.is_full(), queue.unfinished(), queue.task_done(region));
            }
            10 => {
                region.recover_dead(me);
            }
            _ => {
                let mut messages: Vec<_> = (0..3).map(|_| Message::new(region, me)).collect();
                let _ = queue.put_many(&mut messages, &mut 0, region, me, None);
            }
        }
    }
    if random.below(3) == 0 {
        queue.shut_down(random.below(2) == 0, region, me);
    }
}

#[test]
fn whatever_a_queue_holds_everything_ends() {
    const MARK: u64 = 0x0123_4567_89AB_CDEF;
    let _limit = limit(300);
    let mut longest = (0, 0);
    for seed in 1..=100_u64 {
        let random = &mut Random(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let region = Region::new().unwrap();
        let me = region.register().unwrap();
        let queue = region.create_queue(me, [0, 0, 10][random.below(3)]).unwrap();
        let mut message = Message::new(&region, me);
        message.set_word(1, MARK);
        queue.put(&mut message, &region, me, None).unwrap();
        let slot = find(&region, MARK) - 16; // the ring's first one
        queue.set_redelivers(random.below(4) == 0, &region, me);
        (0..random.next() % 9).for_each(|number| put(&queue, &region, me, number));

        let state = words(&region, std::ptr::from_ref::<Queue>(&queue) as usize + 8, size_of::<Queue>() - 8);
        let ring = words(&region, slot, 32 * 128);
        for _ in 0..3 {
            for _ in 0..=random.below(6) {
                let all = if random.below(2) == 0 { &state } else { &ring };
                let word = all[random.below(all.len())];
                word.store(random.value(word.load(Ordering::Relaxed), all), Ordering::Relaxed);
            }
            let start = Instant::now();
            use_it(&queue, &region, me, random);
            longest = longest.max((start.elapsed().as_millis(), seed));
        }
        let start = Instant::now();
        drop(queue);
        longest = longest.max((start.elapsed().as_millis(), seed));
    }
    println!("{} ms at most, with seed {}", longest.0, longest.1);
}
