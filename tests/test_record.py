"""The record of a training, by itself."""

import math

import pytest

from varflow import TrainingRecord


def test_begins_empty_and_shares_nothing_with_others():
    record = TrainingRecord()
    record.log_step(1.0, 0.1, 2.0)
    record.new_epoch()
    record.end_epoch(1.0)
    fresh = TrainingRecord()
    assert (fresh.losses, fresh.epochs, fresh.epoch_losses) == ([], [], [])
    assert (fresh.learning_rates, fresh.gradient_lengths, fresh.reloads) == ([], [], [])
    assert (fresh.step, fresh.epoch, fresh.n_reloads, fresh.stopped_early) == (0, 0, 0, False)
    assert fresh.loss is fresh.best_loss is fresh.best_epoch is None


def test_running_average_gives_the_newest_loss_three_tenths():
    record = TrainingRecord()
    averages = []
    for loss in (2.0, 4.0, -1.0):
        record.log_step(loss, 0.1, 2.0)
        averages.append(record.loss)
    assert averages == pytest.approx([2.0, 2.6, 1.52], rel=1e-15)
    assert record.losses == [2.0, 4.0, -1.0]
    assert record.step == 3


def test_epochs_are_noted_where_they_begin():
    record = TrainingRecord()
    for n_steps in (2, 0, 3):  # the second is begun again before its first step is done
        record.new_epoch()
        for _ in range(n_steps):
            record.log_step(1.0, 0.1, 2.0)
    assert record.epochs == [0, 2, 2]


def test_best_epoch_is_the_first_with_the_least_loss():
    record = TrainingRecord()
    assert [record.end_epoch(loss) for loss in (3.0, 1.0, 1.0, 2.0, -1.0)] == [True, True, False, False, True]
    assert (record.epoch, record.best_epoch, record.best_loss) == (5, 5, -1.0)
    assert record.epoch_losses == [3.0, 1.0, 1.0, 2.0, -1.0]


def test_begins_with_the_loss_before_the_training():
    record = TrainingRecord()
    record.begin(2.0)
    assert (record.initial_loss, record.best_loss, record.best_epoch) == (2.0, 2.0, 0)
    assert [record.end_epoch(loss) for loss in (2.0, 3.0)] == [False, False]
    record.begin(5.0)  # on other points, of which earlier losses say nothing
    assert (record.initial_loss, record.best_loss, record.best_epoch) == (5.0, 5.0, 2)
    assert record.end_epoch(4.0)
    assert (record.best_loss, record.best_epoch) == (4.0, 3)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_any_loss_is_better_than_one_that_was_not_finite(loss):
    record = TrainingRecord()
    record.begin(loss)
    assert record.end_epoch(1e300)
    assert (record.best_loss, record.best_epoch) == (1e300, 1)


def test_is_shown_without_its_lists():
    record = TrainingRecord()
    record.log_step(1.5, 0.1, 2.0)
    assert repr(record) == ("TrainingRecord(loss=1.5, best_loss=None, best_epoch=None, stopped_early=False)")


def test_epochs_end_where_they_are_completed():
    record = TrainingRecord()
    for is_completed in (True, False, True):
        record.new_epoch()
        record.log_step(1.0, 0.1, 2.0)
        if is_completed:
            record.end_epoch(1.0)
        else:
            record.reload()
    assert (record.epoch_ends, record.reloads, record.n_reloads) == ([1, 3], [2], 1)
