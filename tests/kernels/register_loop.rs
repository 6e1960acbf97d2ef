//! The loops over registers that a machine's peak is measured by: they do the work they count.

use mote::arch::Arithmetic;
use mote_tests::isas;

#[test]
fn a_register_loop_does_the_rounds_it_counts() {
    for isa in isas() {
        for (arithmetic, in_a_lane) in
            [(Arithmetic::F32, 1), (Arithmetic::Bf16, 2), (Arithmetic::Q8, 4)]
        {
            let run = |rounds| isa.register_loop(arithmetic, rounds);
            let (_, once) = run(1);
            let lanes = once / in_a_lane;
            // Twelve or 24 registers, that begin at 2, 3, 4, … in every lane.
            let mean = isa.register_loop(arithmetic, 0).0 / lanes as f32;
            assert!(mean == 7.5 || mean == 13.5, "{isa:?} {arithmetic:?}: {mean}");
            assert!(once > 0 && once % in_a_lane == 0, "{isa:?} {arithmetic:?}: {once}");
            for rounds in [0, 1, 2, 1000] {
                let each = match arithmetic {
                    Arithmetic::F32 => 1.0 + (mean - 1.0) * 0.5f32.powi(rounds as i32),
                    _ => mean + (rounds as u64 * in_a_lane) as f32,
                };
                let expected = (lanes as f32 * each, once * rounds as u64);
                assert_eq!(run(rounds), expected, "{isa:?} {arithmetic:?} {rounds}");
            }
        }
    }
}
