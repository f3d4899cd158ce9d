"""Columns of a record that the modality of recommenders reads. Other names are given with `--map user=userId,item=movieId`."""

USER, ITEM, RATING, TIME = "user", "item", "rating", "time"
READ = (USER, ITEM, RATING, TIME)
