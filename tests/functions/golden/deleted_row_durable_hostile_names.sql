CREATE OR REPLACE FUNCTION "watch_Order's \ lines_deleted"() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application": "", "schema": null, "table": "Order's \\ lines", "label": "deleted", "carries": ["begin", "quo\"ted", "per%cent", "two\nlines"], "level": "row", "delivery": "durable"}
#variable_conflict use_column
-- {"begin": "integer", "quo\"ted": "text", "per%cent": "text", "two\nlines": "text"}
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
  watch_logged pg_catalog.pg_lsn;
BEGIN
  BEGIN
    watch_single := CASE
      WHEN pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN NULL
      WHEN pg_catalog.octet_length(pg_catalog.current_setting('sqlalchemy_watch.context', true)) > 332 THEN ''
      ELSE pg_catalog.concat(
        E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
        ',"txid":', pg_catalog.pg_current_xact_id(),
        ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
        ',"context":', coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null'), ',"rows":[',
        '[', coalesce(pg_catalog.int8up(OLD.begin)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD."quo""ted"::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD."per%cent"::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD."two
lines"::pg_catalog.text)::pg_catalog.text, 'null'), ']]}')
    END;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat(E'sqlalchemy_watch: the rows of Order''s \\ lines/deleted could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF pg_catalog.textne(watch_single, '') AND pg_catalog.int4le(pg_catalog.octet_length(watch_single), 536870912) THEN
    watch_logged := pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', watch_single);
    RETURN NULL;
  END IF;
  IF watch_single IS NULL THEN
    RETURN NULL;
  END IF;
  BEGIN
    watch_head := pg_catalog.concat(
      E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"context":', CASE WHEN pg_catalog.octet_length(coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null')::pg_catalog.text) > 2000 THEN 'null' ELSE coalesce(pg_catalog.to_json(nullif(pg_catalog.current_setting('sqlalchemy_watch.context', true), '')), 'null') END, ',"rows":[');
    watch_room := 65534 - pg_catalog.octet_length(watch_head);
    watch_rows := '[' || coalesce(pg_catalog.int8up(OLD.begin)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD."quo""ted"::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD."per%cent"::pg_catalog.text)::pg_catalog.text, 'null') || ',' || coalesce(pg_catalog.to_json(OLD."two
lines"::pg_catalog.text)::pg_catalog.text, 'null') || ']';
    IF pg_catalog.octet_length(watch_rows) > 536870912 THEN
      watch_rows := NULL;
      watch_resync := 'a row does not fit into a notification';
    END IF;
  EXCEPTION WHEN OTHERS THEN
    IF pg_catalog.texteq(pg_catalog.current_setting('sqlalchemy_watch.muted', true), 'on') THEN
      RETURN NULL;
    END IF;
    RAISE WARNING USING MESSAGE = pg_catalog.concat(E'sqlalchemy_watch: the rows of Order''s \\ lines/deleted could not be described: ', SQLERRM),
      HINT = 'The write itself succeeds. Bring the trigger functions up to date.';
    watch_head := pg_catalog.concat(
      E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"],"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', (pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()) * 1000000)::bigint,
      ',"context":', 'null', ',"rows":[');
    watch_resync := 'the trigger function could not build the notification';
    PERFORM pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
    RETURN NULL;
  END;
  IF watch_rows IS NOT NULL THEN
    PERFORM pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', pg_catalog.concat(watch_head, watch_rows, ']}'));
  END IF;
  IF watch_resync IS NOT NULL THEN
    PERFORM pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', pg_catalog.concat(watch_head, '],"resync":"', watch_resync, '"}'));
  END IF;
  RETURN NULL;
END
$watch$;

CREATE TRIGGER "watch_Order's \ lines_deleted" AFTER DELETE ON "Order's \ lines" FOR EACH ROW EXECUTE FUNCTION "watch_Order's \ lines_deleted"();
