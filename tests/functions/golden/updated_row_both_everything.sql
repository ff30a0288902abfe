CREATE OR REPLACE FUNCTION shop.watch_orders_grown() RETURNS trigger LANGUAGE plpgsql
AS $watch$
-- sqlalchemy_watch 1 {"application":"","schema":"shop","table":"orders","label":"grown","carries":["id","customer_id","status"],"fires_on":["total"],"when":"dad07f65","old":true,"level":"row","delivery":"both"}
-- {"id": "integer", "customer_id": "bigint", "status": "text", "total": "numeric"}
#variable_conflict use_column
DECLARE
  watch_payload pg_catalog.text;
  watch_head pg_catalog.text;
  watch_context pg_catalog.text;
  watch_rows pg_catalog.text;
  watch_key pg_catalog.text;
  watch_room integer;
BEGIN
  BEGIN
    IF (((NEW.id OPERATOR(pg_catalog.<>) OLD.id) IS NOT FALSE OR pg_catalog.record_image_ne(ROW(NEW.total), ROW(OLD.total))) AND (((new.total OPERATOR(pg_catalog.>=) old.total) AND (new.total OPERATOR(pg_catalog.<=) 100)) AND (new.status OPERATOR(pg_catalog.=) ANY ('{"new","paid"}')) OR (new.status OPERATOR(pg_catalog.<>) old.status))) IS NOT TRUE THEN RETURN NULL; END IF;
    watch_payload := CASE WHEN pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN NULL ELSE pg_catalog.concat(
      '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["id","customer_id","status","total"],"schema":"shop","oid":', tg_relid,
      ',"txid":', pg_catalog.pg_current_xact_id(),
      ',"at":', pg_catalog.to_json(pg_catalog.clock_timestamp()),
      ',"rows":[[', coalesce(NEW.id, NULL::integer), ',', coalesce(coalesce(NEW.customer_id, NULL::bigint)::pg_catalog.text, 'null'), ',', coalesce(pg_catalog.to_json(NEW.status::pg_catalog.text), 'null'), ',"', ((NEW.id OPERATOR(pg_catalog.<>) OLD.id) IS NOT FALSE)::integer::pg_catalog.text, (((NEW.customer_id OPERATOR(pg_catalog.<>) OLD.customer_id) IS NOT FALSE AND (NEW.customer_id IS NOT NULL OR OLD.customer_id IS NOT NULL)))::integer::pg_catalog.text, (pg_catalog.record_image_ne(ROW(NEW.status), ROW(OLD.status)))::integer::pg_catalog.text, (pg_catalog.record_image_ne(ROW(NEW.total), ROW(OLD.total)))::integer::pg_catalog.text, '",', coalesce(OLD.id, NULL::integer), ',', coalesce(coalesce(OLD.customer_id, NULL::bigint)::pg_catalog.text, 'null'), ',', coalesce(pg_catalog.to_json(OLD.status::pg_catalog.text), 'null'), ',', coalesce('"' OPERATOR(pg_catalog.||) OLD.total::numeric::pg_catalog.text OPERATOR(pg_catalog.||) '"', 'null'), ']]',
      ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text,
      '}') END;
    IF pg_catalog.octet_length(watch_payload) OPERATOR(pg_catalog.>) 7999 THEN RAISE data_exception; END IF;
    IF tg_relid IS NULL AND (pg_catalog.pg_notify('watch_shop_orders_grown', '') IS NULL OR pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', '') IS NULL) THEN RAISE data_exception; END IF;
  EXCEPTION
    WHEN OTHERS OR assert_failure THEN
      BEGIN
        IF pg_catalog.current_setting('sqlalchemy_watch.muted', true) OPERATOR(pg_catalog.=) 'on' THEN RETURN NULL; END IF;
        watch_head := pg_catalog.concat(
          '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["id","customer_id","status","total"],"schema":"shop","oid":', tg_relid,
          ',"txid":', pg_catalog.pg_current_xact_id(),
          ',"at":', pg_catalog.to_json(pg_catalog.clock_timestamp()));
        watch_context := ',"context":' OPERATOR(pg_catalog.||) pg_catalog.to_json(pg_catalog.current_setting('sqlalchemy_watch.context', true))::pg_catalog.text;
        watch_context := CASE WHEN pg_catalog.octet_length(watch_context) OPERATOR(pg_catalog.<=) 2011 THEN watch_context END;
        IF (((NEW.id OPERATOR(pg_catalog.<>) OLD.id) IS NOT FALSE OR pg_catalog.record_image_ne(ROW(NEW.total), ROW(OLD.total))) AND (((new.total OPERATOR(pg_catalog.>=) old.total) AND (new.total OPERATOR(pg_catalog.<=) 100)) AND (new.status OPERATOR(pg_catalog.=) ANY ('{"new","paid"}')) OR (new.status OPERATOR(pg_catalog.<>) old.status))) IS NOT TRUE THEN RETURN NULL; END IF;
        watch_room := 7986 OPERATOR(pg_catalog.-) pg_catalog.octet_length(pg_catalog.concat(watch_head, watch_context));
        watch_rows := pg_catalog.concat(coalesce(NEW.id, NULL::integer), ',', coalesce(coalesce(NEW.customer_id, NULL::bigint)::pg_catalog.text, 'null'), ',', coalesce(pg_catalog.to_json(NEW.status::pg_catalog.text), 'null'), ',"', ((NEW.id OPERATOR(pg_catalog.<>) OLD.id) IS NOT FALSE)::integer::pg_catalog.text, (((NEW.customer_id OPERATOR(pg_catalog.<>) OLD.customer_id) IS NOT FALSE AND (NEW.customer_id IS NOT NULL OR OLD.customer_id IS NOT NULL)))::integer::pg_catalog.text, (pg_catalog.record_image_ne(ROW(NEW.status), ROW(OLD.status)))::integer::pg_catalog.text, (pg_catalog.record_image_ne(ROW(NEW.total), ROW(OLD.total)))::integer::pg_catalog.text, '",', coalesce(OLD.id, NULL::integer), ',', coalesce(coalesce(OLD.customer_id, NULL::bigint)::pg_catalog.text, 'null'), ',', coalesce(pg_catalog.to_json(OLD.status::pg_catalog.text), 'null'), ',', coalesce('"' OPERATOR(pg_catalog.||) OLD.total::numeric::pg_catalog.text OPERATOR(pg_catalog.||) '"', 'null'));
        watch_key := pg_catalog.concat(coalesce(NEW.id, NULL::integer));
        watch_payload := CASE
          WHEN pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) watch_room THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}')
          WHEN pg_catalog.octet_length(watch_key) OPERATOR(pg_catalog.<=) watch_room THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_key, ']]', watch_context, '}')
          ELSE pg_catalog.concat(watch_head, ',"rows":[],"resync":"a row does not fit into a notification"}') END;
        PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', watch_payload);
        watch_payload := CASE
          WHEN pg_catalog.octet_length(watch_rows) OPERATOR(pg_catalog.<=) 536870912 THEN pg_catalog.concat(watch_head, ',"rows":[[', watch_rows, ']]', watch_context, '}')
          ELSE pg_catalog.concat(watch_head, ',"rows":[],"resync":"a row does not fit into a notification"}') END;
        PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', watch_payload);
        watch_payload := NULL;
        IF tg_relid IS NULL AND (pg_catalog.pg_notify('watch_shop_orders_grown', '') IS NULL OR pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', '') IS NULL) THEN RAISE data_exception; END IF;
      EXCEPTION WHEN OTHERS OR assert_failure THEN
        watch_payload := '{"v":1,"table":"orders","label":"grown","op":"updated","columns":["id","customer_id","status"],"old":["id","customer_id","status","total"],"schema":"shop"}';
        BEGIN
          IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, ',"rows":[],"resync":"the trigger function could not build the notification"}'); END IF;
          PERFORM pg_catalog.pg_notify('watch_shop_orders_grown', watch_payload);
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
        END;
        BEGIN
          IF watch_head IS NOT NULL THEN watch_payload := pg_catalog.concat(watch_head, ',"rows":[],"resync":"the trigger function could not build the notification"}'); END IF;
          PERFORM pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', watch_payload);
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where the right to send is lacking
        END;
        BEGIN
          RAISE WARNING USING MESSAGE = pg_catalog.concat('sqlalchemy_watch: the rows of shop.orders/grown could not be described', ': ', SQLSTATE, ' ',
              pg_catalog.encode(pg_catalog.convert_to(SQLERRM, pg_catalog.getdatabaseencoding()), 'escape')),
            HINT = 'The write itself succeeds. "sqlalchemy-watch status" names what may be wrong.';
        EXCEPTION WHEN OTHERS OR assert_failure THEN  -- as where a right is lacking, or the client's encoding
          BEGIN RAISE WARNING USING MESSAGE = 'sqlalchemy_watch: the rows of shop.orders/grown could not be described'; EXCEPTION WHEN OTHERS OR assert_failure THEN END;
        END;
        RETURN NULL;
      END;
  END;
  RETURN CASE WHEN watch_payload IS NOT NULL AND (pg_catalog.pg_notify('watch_shop_orders_grown', watch_payload) IS NULL OR pg_catalog.pg_logical_emit_message(true, 'sqlalchemy_watch/watch_shop_orders_grown', watch_payload) IS NULL) THEN '' END;  -- always NULL
END
$watch$;

CREATE TRIGGER watch_orders_grown AFTER UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.watch_orders_grown();
