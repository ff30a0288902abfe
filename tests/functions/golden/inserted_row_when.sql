CREATE OR REPLACE FUNCTION watch_orders_large() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application":"","schema":null,"table":"orders","label":"large","carries":["id"],"when":"4bcd4583","level":"row"}
-- {"id": "integer"}
#variable_conflict use_column
DECLARE
  watch_payload pg_catalog.text;
  watch_head pg_catalog.text;
  watch_context pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_room integer;
BEGIN
  BEGIN
    IF (((new.total OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.*) 2) OPERATOR(pg_catalog.>) 100) IS NOT TRUE THEN RETURN NULL; END IF;
    watch_payload := CASE WHEN pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN NULL ELSE pg_catalog.concat(
      '{"v":1,"table":"orders","label":"large","op":"inserted","columns":["id"],"oid":', tg_relid,
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
      ',"rows":[[', coalesce(NEW.id, NULL::integer), ']]',
      ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text,
      '}') END;
    IF pg_catalog.octet_length(watch_payload) OPERATOR(pg_catalog.>) 7999 THEN RAISE data_exception; END IF;
    IF tg_relid IS NULL AND pg_catalog.pg_notify('watch_orders_large', '') IS NULL THEN RAISE data_exception; END IF;
  EXCEPTION
    WHEN OTHERS OR assert_failure THEN
      BEGIN
        IF pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN RETURN NULL; END IF;
        watch_head := pg_catalog.concat(
          '{"v":1,"table":"orders","label":"large","op":"inserted","columns":["id"],"oid":', tg_relid,
          ',"txid":', pg_catalog.pg_current_xact_id(),
          ',"at":', pg_catalog.to_json(pg_catalog.clock_timestamp()));
        watch_context := ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text;
        watch_context := CASE WHEN pg_catalog.octet_length(watch_context) OPERATOR(pg_catalog.<=) 2011 THEN watch_context END;
        IF (((new.total OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.*) 2) OPERATOR(pg_catalog.>) 100) IS NOT TRUE THEN RETURN NULL; END IF;
        watch_room := 7986 OPERATOR(pg_catalog.-) pg_catalog.octet_length(pg_catalog.concat(watch_head, watch_context));
        watch_rows := pg_catalog.concat(coalesce(NEW.id, NULL::integer));
        watch_payload := CASE
          WHEN pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) watch_room THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}')
          ELSE pg_catalog.concat(watch_head, ',"rows":[],"resync":"a row does not fit into a notification"}') END;
        IF tg_relid IS NULL AND pg_catalog.pg_notify('watch_orders_large', '') IS NULL THEN RAISE data_exception; END IF;
      EXCEPTION WHEN OTHERS OR assert_failure THEN
        watch_payload := '{"v":1,"table":"orders","label":"large","op":"inserted","columns":["id"]}';
        BEGIN
          IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, ',"rows":[],"resync":"the trigger function could not build the notification"}'); END IF;
          PERFORM pg_catalog.pg_notify('watch_orders_large', watch_payload);
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
        END;
        BEGIN
          RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of orders/large could not be described', ': ', SQLSTATE, ' ',
              pg_catalog.encode(pg_catalog.convert_to(SQLERRM, pg_catalog.getdatabaseencoding()), 'escape')),
            HINT = 'The write itself succeeds. "sqlalchemy-watch status" names what may be wrong.';
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where a right is lacking, or the client's encoding
          BEGIN RAISE WARNING USING MESSAGE = 'sqlalchemy_watch: the rows of orders/large could not be described'; EXCEPTION WHEN OTHERS OR assert_failure THEN END;
        END;
        RETURN NULL;
      END;
  END;
  RETURN CASE WHEN watch_payload IS NOT NULL AND pg_catalog.pg_notify('watch_orders_large', watch_payload) IS NULL THEN '' END;  -- always NULL
END
$watch$;

CREATE TRIGGER watch_orders_large AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION watch_orders_large();
