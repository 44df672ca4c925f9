from models.data.place.director import EndlessPlace
from models.data.place.instruction import find_query, wordings
from models.data.place.label import gold_events
from services.cli.demo import CAMERAS, WATCHES


def test_each_watch_has_several_things_to_tell_in_each_of_the_first_minutes():
    for watch in WATCHES:
        script = EndlessPlace(CAMERAS[watch.stream_id]).script(180_000)
        query = find_query(watch.task, watch.instruction)
        # In words that training has.
        assert watch.instruction in wordings(query).seen
        times_ms = list(range(0, 180_000, 1000))
        views = [script.view(time_ms) for time_ms in times_ms]
        golds = gold_events(script.told_acts, views, times_ms, query)
        told = [sum(gold.frame_ms // 60_000 == minute for gold in golds) for minute in range(3)]
        assert min(told) >= 3, watch
