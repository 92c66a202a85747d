"""The suite's own checks fail where they should."""

from weft.lab._attack_results import suite_checks


def test_a_suite_that_questions_alone_beat_or_that_rises_again_is_flagged():
    def point(epsilon, square, margin):
        rows = [("Square-9 (margin)", square), ("APGD-9 (margin)", margin), ("relay", None)]
        return {
            "epsilon": epsilon,
            "worst": min(square, margin),
            "methods": [{"method": name, "accuracy": share} for name, share in rows],
        }

    good = [point(0.1, 0.6, 0.5), point(0.2, 0.3, 0.1)]
    assert [check["passed"] for check in suite_checks(good)] == [True, True]
    beaten = [point(0.1, 0.3, 0.5), point(0.2, 0.3, 0.1)]
    assert [check["passed"] for check in suite_checks(beaten)] == [False, True]
    rising = [point(0.1, 0.6, 0.5), point(0.2, 0.7, 0.6)]
    assert [check["passed"] for check in suite_checks(rising)] == [True, False]
