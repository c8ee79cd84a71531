//! From the table in force and the one that is wanted to the slots in between.

use std::collections::HashSet;

use director_ebpf::abi::Slot;

/// The slots that bring `old` to the owners `wanted`: new flows go to their new
/// owner at once, flows that began before stay with the earlier one as long as
/// that may keep them.
///
/// An earlier owner that may not (it is dead, or gone) loses its slot for good:
/// its flows are lost whatever is done, and the new owner's stack tells their
/// clients so by RST.
pub fn next(old: Option<&[Slot]>, wanted: &[u32], may_keep: &HashSet<u32>) -> Vec<Slot> {
    let Some(old) = old else {
        return wanted.iter().map(|w| Slot::new(*w, *w, false)).collect();
    };
    old.iter()
        .zip(wanted)
        .map(|(slot, wanted)| {
            let base = if may_keep.contains(&slot.base()) {
                slot.base()
            } else {
                *wanted
            };
            Slot::new(*wanted, base, slot.is_tracked() || base != *wanted)
        })
        .collect()
}

/// The slots once everything that began before their last change is over.
pub fn settled(slots: &[Slot]) -> Vec<Slot> {
    slots
        .iter()
        .map(|slot| Slot::new(slot.current(), slot.current(), slot.is_tracked()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(old: &[Slot], wanted: u32, alive: &[u32]) -> Vec<Slot> {
        let alive = alive.iter().copied().collect();
        next(Some(old), &vec![wanted; old.len()], &alive)
    }

    #[test]
    fn a_first_table_tracks_nothing() {
        let slots = next(None, &[3, 4], &HashSet::from([3, 4]));
        assert_eq!(slots, [Slot::new(3, 3, false), Slot::new(4, 4, false)]);
    }

    #[test]
    fn a_planned_change_keeps_the_base_and_so_does_a_second_one() {
        let once = step(&[Slot::new(3, 3, false)], 4, &[3, 4, 5]);
        assert_eq!(once, [Slot::new(4, 3, true)]);
        assert_eq!(step(&once, 5, &[3, 4, 5]), [Slot::new(5, 3, true)]);
        // Back again: flows of the time between are still recorded.
        assert_eq!(step(&once, 3, &[3, 4, 5]), [Slot::new(3, 3, true)]);
    }

    #[test]
    fn a_death_needs_no_state() {
        let slots = step(&[Slot::new(3, 3, false)], 4, &[4]);
        assert_eq!(slots, [Slot::new(4, 4, false)]);
    }

    #[test]
    fn a_death_of_the_base_ends_the_base_and_keeps_what_is_recorded() {
        let slots = step(&[Slot::new(4, 3, true)], 4, &[4]);
        assert_eq!(slots, [Slot::new(4, 4, true)]);
    }

    #[test]
    fn a_death_of_the_current_owner_leaves_the_base() {
        let slots = step(&[Slot::new(4, 3, true)], 5, &[3, 5]);
        assert_eq!(slots, [Slot::new(5, 3, true)]);
    }

    #[test]
    fn once_settled_the_owner_is_the_base() {
        assert_eq!(settled(&[Slot::new(5, 3, true)]), [Slot::new(5, 5, true)]);
    }
}
