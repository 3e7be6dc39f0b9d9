from lavatube.weights.progress import Ledger, Progress


def test_parts_make_one_progress() -> None:
    heard: list[Progress] = []
    ledger = Ledger(heard.append)
    main, tower = ledger.part("main"), ledger.part("tower")
    main(Progress("resolving"))
    ledger.expect("main", 1000)
    tower(Progress("resolving"))
    tower(Progress("fetching", 100, 200, 50.0))
    tower(Progress("fetching", 200, 200, 50.0))
    main(Progress("fetching", 10, 1000, 60.0))
    main(Progress("verifying", 1000, 1000))
    assert heard == [
        Progress("resolving"),
        Progress("resolving", 0, 1000),
        Progress("fetching", 100, 1200, 50.0),
        Progress("fetching", 200, 1200, 50.0),
        Progress("fetching", 210, 1200, 60.0),
        Progress("verifying", 1200, 1200),
    ]
    assert heard[4].eta_s == (1200 - 210) / 60


def test_what_is_expected_is_not_counted_twice() -> None:
    heard: list[Progress] = []
    ledger = Ledger(heard.append)
    main = ledger.part("main")
    main(Progress("fetching", 5, 10))
    ledger.expect("main", 10)
    main(Progress("fetching", 7, 10))
    assert heard[-1] == Progress("fetching", 7, 10)
