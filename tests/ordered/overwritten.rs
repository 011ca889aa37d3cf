//! Somebody wrote over a queue that keeps an order: whatever is done with it ends, maybe with an error.
#![expect(unsafe_code, reason = "writes over what others rely on")]
#![expect(clippy::disallowed_types, reason = "not the engine's words")]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

/// The payload of the message in a table's first entry.
const SIGN: [u8; 8] = [7, 0xC3, 0x5A, 0x96, 0xE1, 0x2D, 0xB4, 0];
/// Words of a queue, of the first block of its table, and of an entry.
const QUEUE_WORDS: usize = 64;
const TABLE_WORDS: usize = 64 * ENTRY_WORDS;
const ENTRY_WORDS: usize = 8;

/// So many words of a region, from there on.
///
/// # Safety
/// They are in the region and aligned, and nobody uses the result after the region's end.
unsafe fn words<'a>(start: *const u8, count: usize) -> &'a [AtomicU64] {
    // SAFETY: as the caller says; any bytes are valid, and others change them by atomics, too.
    unsafe { core::slice::from_raw_parts(start.cast(), count) }
}

/// The words of the table of which the first entry's message is SIGN.
fn table(region: &Region) -> &[AtomicU64] {
    let (start, bytes) = region.segments()[0];
    // SAFETY: a segment is page aligned, and as long as that.
    let all = unsafe { words(start, bytes / 8) };
    let sign = u64::from_ne_bytes(SIGN);
    let payload = all.iter().position(|word| word.load(Relaxed) == sign).unwrap();
    let first = payload + 1 - ENTRY_WORDS;
    &all[first..first + TABLE_WORDS]
}

/// What is written over a word.
fn garbage() -> impl Strategy<Value = u64> {
    let borders = vec![0, 1, 2, 3, 31, 32, 33, 63, 64, 65, 70, 191, 192, 1 << 32, (1 << 38) - 64, 1 << 38, u64::MAX];
    let meta = (0..3_u16, prop::sample::select(vec![0_u64, 8, 9, 112, 113, 1 << 16, (1 << 40) - 1]))
        .prop_map(|(pins, length)| u64::from(pins) << 40 | length);
    // A journal's word: something was to be done, and so far it had come.
    let change = (0..8_u64, 0..4_u64, 0..80_u64).prop_map(|(kind, step, place)| place << 16 | step << 3 | kind);
    prop_oneof![3 => prop::sample::select(borders), 2 => meta, 2 => change, 2 => any::<u64>(), 2 => 0..1_u64 << 20]
}

/// Which words are written over, and with what.
fn damage() -> impl Strategy<Value = Vec<(usize, u64)>> {
    // Not the first one, by which others know what the object is; mostly those that only such queues have.
    let place = prop_oneof![1 => 1..32_usize, 6 => 32..QUEUE_WORDS, 4 => QUEUE_WORDS..QUEUE_WORDS + TABLE_WORDS];
    vec((place, garbage()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn queue_goes_on(
        by_priority in any::<bool>(),
        damage in damage(),
        damage_by_somebody_dead in any::<bool>(),
        steps in vec((0..7_u8, 0..3_usize), 0..40),
    ) {
        let _limit = limit(60);
        if by_priority {
            go_on::<Priority>(&damage, damage_by_somebody_dead, &steps);
        } else {
            go_on::<Lifo>(&damage, damage_by_somebody_dead, &steps);
        }
    }
}

fn go_on<O: Order>(damage: &[(usize, u64)], by_somebody_dead: bool, steps: &[(u8, usize)]) {
    let (region, me) = region();
    let dead = region.register().unwrap();
    let queue = region.create_ordered_queue::<O>(me, 0).unwrap();
    try_put(&queue, &SIGN, ENDLESS).unwrap();
    let table = table(&region);
    for number in 1..70 {
        let length = [8, 50, 300][number % 3];
        try_put(&queue, &message(number as u64, 8 + number as u8, length, number % 2 == 0), ENDLESS).unwrap();
    }
    if by_somebody_dead {
        core::mem::forget(queue.try_lock(&region, Owner { peer: dead, thread: 7 }).unwrap());
    }
    // SAFETY: the handle's object, whose state has that many words.
    let state = unsafe { words((&raw const *queue).cast(), QUEUE_WORDS) };
    for (place, value) in damage {
        state.iter().chain(table).nth(*place).unwrap().store(*value, Relaxed);
    }
    queue.recover(&region, dead);
    let mut message = Message::new(&region, me);
    for (step, kind) in steps {
        let Ok(Some(mut locked)) = queue.try_lock(&region, owner(&queue)) else {
            continue; // as if somebody held it
        };
        let mut patience = ENDLESS;
        let judge = judge(&mut patience);
        match step {
            0 | 1 => {
                let bytes = super::message(1000, 30, [8, 50, 300][*kind], true);
                message.set_bytes(1, &bytes).unwrap();
                let keys = [key_of(&bytes)];
                let result =
                    Put { messages: slice::from_mut(&mut message), keys: &keys, put: 0 }.perform(&mut locked, judge);
                // What was not put is the caller's still.
                assert!(result.is_ok() || message.length() == 0 || read(&message) == bytes);
            }
            2 | 3 => {
                message.prepare(u64::MAX);
                let _ = Get { message: &mut message, quietly: false }.perform(&mut locked, judge);
            }
            4 => drop(Peek { copy: &mut message }.perform(&mut locked, judge)),
            5 => drop(locked.clear()),
            _ => drop(locked.shut_down(*kind == 0)),
        }
        let _ = (queue.len(), queue.is_full(), queue.unfinished(), queue.task_done(&region));
    }
}

/// A count that no table is for is an error, and so is a table that is not there.
#[test]
fn damage_is_reported() {
    let (region, me) = region();
    let queue = region.create_ordered_queue::<Priority>(me, 0).unwrap();
    try_put(&queue, &SIGN, ENDLESS).unwrap();
    // SAFETY: as above.
    let state = unsafe { words((&raw const *queue).cast(), QUEUE_WORDS) };
    let count = state.iter().skip(32).find(|word| word.load(Relaxed) == 1).unwrap();
    for wrong in [2 + (1 << 38), u64::MAX, 1 << 20] {
        count.store(wrong, Relaxed);
        assert_eq!(try_get(&queue, ENDLESS), Err(refused(GetError::Corrupt)));
        assert_eq!(try_put(&queue, b"more", ENDLESS), Err(refused(PutError::Corrupt)));
        assert_eq!(queue.try_lock(&region, owner(&queue)).unwrap().unwrap().clear(), Err(GetError::Corrupt));
    }
    count.store(1, Relaxed);
    assert_eq!(try_get(&queue, ENDLESS).unwrap(), SIGN);
}
