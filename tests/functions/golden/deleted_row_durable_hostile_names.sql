CREATE OR REPLACE FUNCTION "watch_Order's \ lines_deleted"() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application":"","schema":null,"table":"Order's \\ lines","label":"deleted","carries":["begin","quo\"ted","per%cent","two\nlines"],"level":"row","delivery":"durable"}
-- {"begin": "integer", "quo\"ted": "text", "per%cent": "text", "two\nlines": "text"}
#variable_conflict use_column
DECLARE
  watch_payload pg_catalog.text;
  watch_head pg_catalog.text;
  watch_context pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_room integer;
BEGIN
  BEGIN
    watch_payload := CASE WHEN pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN NULL ELSE pg_catalog.concat(
      E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"],"oid":', tg_relid,
      ',"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text),
      ',"rows":[[', coalesce(OLD."begin", NULL::integer), ',', coalesce(pg_catalog.to_json(OLD."quo""ted"::pg_catalog.text), 'null'), ',', coalesce(pg_catalog.to_json(OLD."per%cent"::pg_catalog.text), 'null'), ',', coalesce(pg_catalog.to_json(OLD."two
lines"::pg_catalog.text), 'null'), ']]',
      ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text,
      '}') END;
    IF pg_catalog.octet_length(watch_payload) OPERATOR(pg_catalog.>) 65536 THEN RAISE data_exception; END IF;
    IF tg_relid IS NULL AND pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', '') IS NULL THEN RAISE data_exception; END IF;
  EXCEPTION
    WHEN OTHERS OR assert_failure THEN
      BEGIN
        IF pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN RETURN NULL; END IF;
        watch_head := pg_catalog.concat(
          E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"],"oid":', tg_relid,
          ',"schema":', pg_catalog.to_json(tg_table_schema::pg_catalog.text));
        watch_context := ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text;
        watch_context := CASE WHEN pg_catalog.octet_length(watch_context) OPERATOR(pg_catalog.<=) 2011 THEN watch_context END;
        watch_room := 65523 OPERATOR(pg_catalog.-) pg_catalog.octet_length(pg_catalog.concat(watch_head, watch_context));
        watch_rows := pg_catalog.concat(coalesce(OLD."begin", NULL::integer), ',', coalesce(pg_catalog.to_json(OLD."quo""ted"::pg_catalog.text), 'null'), ',', coalesce(pg_catalog.to_json(OLD."per%cent"::pg_catalog.text), 'null'), ',', coalesce(pg_catalog.to_json(OLD."two
lines"::pg_catalog.text), 'null'));
        watch_payload := CASE
          WHEN pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) 536870912 THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}')
          ELSE pg_catalog.concat(watch_head, ',"rows":[],"resync":"a row does not fit into a notification"}') END;
        IF tg_relid IS NULL AND pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', '') IS NULL THEN RAISE data_exception; END IF;
      EXCEPTION WHEN OTHERS OR assert_failure THEN
        watch_payload := E'{"v":1,"table":"Order''s \\\\ lines","label":"deleted","op":"deleted","columns":["begin","quo\\"ted","per%cent","two\\nlines"]}';
        BEGIN
          IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, ',"rows":[],"resync":"the trigger function could not build the notification"}'); END IF;
          PERFORM pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', watch_payload);
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
        END;
        BEGIN
          RAISE WARNING USING MESSAGE = pg_catalog.concat(E'sqlalchemy_watch: the rows of Order''s \\ lines/deleted could not be described', ': ', SQLSTATE, ' ',
              pg_catalog.encode(pg_catalog.convert_to(SQLERRM, pg_catalog.getdatabaseencoding()), 'escape')),
            HINT = 'The write itself succeeds. "sqlalchemy-watch status" names what may be wrong.';
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where a right is lacking, or the client's encoding
          BEGIN RAISE WARNING USING MESSAGE = E'sqlalchemy_watch: the rows of Order''s \\ lines/deleted could not be described'; EXCEPTION WHEN OTHERS OR assert_failure THEN END;
        END;
        RETURN NULL;
      END;
  END;
  RETURN CASE WHEN watch_payload IS NOT NULL AND pg_catalog.pg_logical_emit_message(true, E'sqlalchemy_watch/watch_Order''s \\ lines_deleted', watch_payload) IS NULL THEN '' END;  -- always NULL
END
$watch$;

CREATE TRIGGER "watch_Order's \ lines_deleted" AFTER DELETE ON "Order's \ lines" FOR EACH ROW EXECUTE FUNCTION "watch_Order's \ lines_deleted"();
