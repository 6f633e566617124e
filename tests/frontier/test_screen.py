from dataclasses import replace

from prune_tool.frontier.screen import near_front
from prune_tool.records import MeasuredReading, Reading, Trunk


def measured(macs: int, n_correct: int, flattery: float = 0.0, input_size: int = 32) -> MeasuredReading:
    """A reading of one neuron, judged on a hundred images."""
    reading = Reading(trunk=Trunk(input_size=input_size), kind="layer", taps=(str(macs),), n_per_tap=(1,))
    return MeasuredReading(
        reading=reading,
        macs=macs,
        n_params=1,
        sizes=(1,),
        n_correct=((n_correct,),),
        n_val=100,
        ridge=(0.1,),
        critical_size=1,
        critical_size_std=0.0,
        redundancy=0.0,
        redundancy_nearest=0.0,
        flattery=flattery,
    )


def test_what_a_cheaper_one_beats_by_more_than_the_slack_is_left_out():
    readings = [measured(3, 90), measured(1, 80), measured(2, 77), measured(4, 87), measured(5, 89)]
    assert near_front(readings, slack=0.02) == [1, 0, 4]
    assert near_front(readings, slack=0.035) == [1, 2, 0, 3, 4]


def test_those_that_fall_least_short_stay_where_there_are_too_many():
    readings = [measured(1, 80), measured(2, 79), measured(3, 90), measured(4, 88)]
    assert near_front(readings, slack=0.5, most=3) == [0, 1, 2]
    assert near_front(readings, slack=0.5, most=1) == [2]


def test_what_flatters_a_reading_is_taken_off_before_it_is_compared():
    lucky, sound = measured(1, 90, flattery=0.06), measured(2, 88)
    assert near_front([lucky, sound], slack=0, most=1) == [1]
    assert near_front([replace(lucky, flattery=0.0), sound], slack=0, most=1) == [0]
    assert near_front([lucky, replace(sound, flattery=-0.01), measured(3, 88)], slack=0) == [0, 1]


def test_the_most_accurate_of_every_trunk_is_kept_whatever_others_cost():
    cheap, dear = [measured(1, 90), measured(2, 80)], [measured(3, 85, input_size=64), measured(4, 84, input_size=64)]
    assert near_front([*cheap, *dear], slack=0.01, most=1) == [0, 2]
    assert near_front([*dear, *cheap], slack=0.01, most=1) == [2, 0]
