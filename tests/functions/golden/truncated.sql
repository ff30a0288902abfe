CREATE OR REPLACE FUNCTION watch_orders_truncated() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application": "", "schema": null, "table": "orders", "label": "truncated"}
#variable_conflict use_column
<<watch>>
DECLARE
  watch_head pg_catalog.text;
  watch_single pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_seen bigint;
  watch_room integer;
  watch_longest integer;
  watch_piece record;
  watch_resync pg_catalog.text;
BEGIN
  BEGIN
    watch_single := CASE
      WHEN pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN NULL
      WHEN pg_catalog.octet_length(pg_catalog.current_setting('sqlalchemy_watch.context', true)) > 332 THEN ''
      ELSE pg_catalog.concat(
        '{"v":1,"table":"orders","label":"truncated","op":"truncated","columns":[],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
        ',"txid":', pg_catalog.pg_current_xact_id(),
        ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
        ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
        ',"context":', coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null'), ',"rows":[',
        '[', '', ']]}')
    END;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of orders/truncated could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"orders","label":"truncated","op":"truncated","columns":[],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_notify('watch_orders_truncated', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF pg_catalog.textne(watch_single, '') AND pg_catalog.int4le(pg_catalog.octet_length(watch_single), 7999) THEN
    watch_rows := pg_catalog.pg_notify('watch_orders_truncated', watch_single)::pg_catalog.text;
    RETURN NULL;
  END IF;
  IF watch_single IS NULL THEN
    RETURN NULL;
  END IF;
  BEGIN
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"orders","label":"truncated","op":"truncated","columns":[],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', CASE WHEN pg_catalog.octet_length(coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null')::pg_catalog.text) > 2000 THEN 'null' ELSE coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null') END, ',"rows":[');
    watch_room := 7997 - pg_catalog.octet_length(watch_head);
    watch_rows := '[]';
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of orders/truncated could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      '{"v":1,"table":"orders","label":"truncated","op":"truncated","columns":[],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"wal":"', pg_catalog.pg_current_wal_insert_lsn(), '"',
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_notify('watch_orders_truncated', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF watch_rows IS NOT NULL THEN
    PERFORM pg_catalog.pg_notify('watch_orders_truncated', pg_catalog.concat(watch_head, watch_rows, ']}'));
  END IF;
  IF watch_resync IS NOT NULL THEN
    PERFORM pg_catalog.pg_notify('watch_orders_truncated', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
  END IF;
  RETURN NULL;
END
$watch$;

CREATE TRIGGER watch_orders_truncated AFTER TRUNCATE ON orders FOR EACH STATEMENT EXECUTE FUNCTION watch_orders_truncated();
